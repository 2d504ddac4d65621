"""A process has room for the connections that it lets be opened, or knows that it has less."""

import subprocess
import sys

import pytest

TOLD = """
import resource
from runstream.api.connection import room_for
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(room_for(1000), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "room", "files"),
    [(256, 4096, 1000, 2100), (4096, 4096, 1000, 4096), (256, 1550, 500, 1550), (256, 500, 1, 500)],
    ids=["it is raised", "it is enough", "there is less", "there is hardly any"],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(soft: int, hard: int, room: int, files: int) -> None:
    code = TOLD.format(soft=soft, hard=hard)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.splitlines()[-1] == f"{room} {files} {hard}"
