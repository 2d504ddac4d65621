"""Try a `runstream` that was installed from a wheel, without the embedded servers, away from the checkout."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runstream.embedded import Postgres

TIMEOUT = 120


def main(runstream: str) -> None:
    with tempfile.TemporaryDirectory() as name, Postgres(Path(name, "postgres"), durable=False) as server:
        environment = {**os.environ, "RUNSTREAM_DATABASE_URL": server.url}
        for arguments in ("--help", "migrate", "migrate", "keys create --tenant acme --user ada", "keys list"):
            print(f"runstream {arguments}", flush=True)
            subprocess.run(
                [runstream, *arguments.split()], cwd=name, env=environment, timeout=TIMEOUT, check=True, text=True
            )


main(sys.argv[1])
