"""Fails where the lock has a version with a known vulnerability that `ACCEPTED` does not give a reason for.

A database of vulnerabilities that cannot be reached fails nothing, for then nobody could land a change; but it is said.
Arguments are passed on to pip-audit, such as which database to ask.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements.lock"
AUDIT = ["uvx", "--quiet", "pip-audit>=2.9,<3"]
LONGEST = 90
"""Seconds: it asks for one package after the other."""

ACCEPTED: dict[str, str] = {}
"""Why a vulnerability does not concern us, by its id. To be taken out as soon as the lock has a version without it."""


def main() -> int:
    dependencies, complaint = audit()
    audited = [each for each in dependencies if "skip_reason" not in each]
    found = {finding["id"]: (each, finding) for each in audited for finding in each["vulns"]}
    if len(audited) < len(dependencies) or not dependencies:
        print(f"NOT AUDITED: {len(dependencies) - len(audited) or 'all'} of {len(dependencies) or 'the lock'}.")
        print(complaint or next(each["skip_reason"] for each in dependencies if "skip_reason" in each))
    for id_, reason in ACCEPTED.items():
        print(f"{id_}, accepted: {reason}" if id_ in found else f"{id_} is accepted, and was not found.")
    refused = [found[id_] for id_ in found.keys() - ACCEPTED.keys()]
    for package, finding in refused:
        fixed = ", ".join(finding["fix_versions"]) or "no version"
        names = ", ".join([finding["id"], *finding["aliases"]])
        print(f"{package['name']} {package['version']}: {names}; mended in {fixed}")
    print(f"{len(audited)} packages audited, {len(refused)} vulnerabilities that are not accepted.")
    return int(bool(refused))


def audit() -> tuple[list[dict[str, Any]], str]:
    """What is known of each package of the lock; and what went wrong, where nothing is."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        options = ["--disable-pip", "--require-hashes", "--requirement", str(LOCK), "--progress-spinner", "off"]
        command = [*AUDIT, *options, *sys.argv[1:], "--format", "json", "--output", str(report)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], type(error).__name__
        if not report.exists():
            return [], (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
        return json.loads(report.read_text())["dependencies"], ""


if __name__ == "__main__":
    sys.exit(main())
