"""Try a `runstream` that was installed from a wheel, away from the checkout.

Arguments: the program, installed without the embedded servers or, with "dev", with them.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from runstream.embedded import Postgres

TIMEOUT = 120
QUIET = {name: value for name, value in os.environ.items() if not name.startswith(("RUNSTREAM_", "OPENAI_"))}


def services(runstream: str, directory: str) -> None:
    """What runs in production: its commands need neither the embedded servers nor the checkout's migrations."""
    with Postgres(Path(directory, "postgres"), durable=False) as server:
        environment = {**QUIET, "RUNSTREAM_DATABASE_URL": server.url}
        for arguments in ("--help", "migrate", "migrate", "keys create --tenant acme --user ada", "keys list"):
            call([runstream, *arguments.split()], directory, environment)


def dev(runstream: str, directory: str) -> None:
    """All of it: servers, simulated provider, worker, API, and a run in the terminal."""
    command = [runstream, "dev", "--port", "0"]
    with subprocess.Popen(command, cwd=directory, env=QUIET, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = dict(line.split(None, 1) for line in until(process, "  curl ") if line.startswith("  "))
            run = [runstream, "run", "hello", "--url", told["page"].strip(), "--model", "sim:10:100"]
            call(run, directory, {**QUIET, "RUNSTREAM_KEY": told["key"].strip()})
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT)
    if process.returncode:
        sys.exit(f"runstream dev ended with {process.returncode}")


def until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """The lines printed up to the one that begins so."""
    lines: list[str] = []
    while not (lines and lines[-1].startswith(beginning)):
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            sys.exit(f"runstream dev said no more than {lines}")
        lines.append(line)
    return lines


def call(command: list[str], directory: str, environment: dict[str, str]) -> None:
    print(*["runstream", *command[1:]], flush=True)
    subprocess.run(command, cwd=directory, env=environment, timeout=TIMEOUT, check=True)


with tempfile.TemporaryDirectory() as name:
    (dev if sys.argv[2:] == ["dev"] else services)(sys.argv[1], name)
