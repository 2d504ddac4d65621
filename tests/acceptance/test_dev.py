"""`runstream dev` as a person uses it: a real command, the lines it prints, and signals."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from runstream.embedded.account import NOBODY
from runstream.embedded.port import free_port

DEADLINE = 60
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


class Dev:
    """A `runstream dev` in its directory, and what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, output: Path) -> None:
        self.process = process
        self.directory = directory
        self._output = output

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while text not in self.printed:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)

    def fact(self, name: str) -> str:
        return next(line.split(None, 1)[1] for line in self.printed.splitlines() if line.startswith(f"  {name} "))

    @property
    def pids(self) -> dict[str, int]:
        started = [tuple(part.split()) for part in self.fact("processes").split(", ")]
        started += re.findall(r"^(\w+) \(process .* started again as process (\d+)\.$", self.printed, re.MULTILINE)
        return {name: int(pid) for name, pid in started}

    def curl(self) -> str:
        line = next(line for line in self.printed.splitlines() if line.startswith("  curl "))
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=DEADLINE, check=True)
        return done.stdout

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.fact('key')}"}
        return httpx.get(self.fact("page").rstrip("/") + path, headers=headers, timeout=DEADLINE, trust_env=False)

    def generate(self) -> httpx.Response:
        """Have five simulated tokens generated, and wait for their end."""
        return httpx.post(
            self.fact("page") + "v1/runs",
            headers={"Authorization": f"Bearer {self.fact('key')}", "Prefer": f"wait={DEADLINE}"},
            json={"feature": "chat", "model": "sim:5", "input": {"messages": [{"role": "user", "content": "five"}]}},
            timeout=DEADLINE,
            trust_env=False,
        )

    def run_ids(self) -> list[str]:
        return [run["id"] for run in self.get("/v1/runs").raise_for_status().json()["data"]]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def dev_in(directory: Path, *, port: int | None = None, prefix: Sequence[str] = ()) -> Iterator[Dev]:
    """Start it with its data in `directory`, in an environment that configures nothing, and stop it at last."""
    names = [name for name in os.environ if not name.startswith("RUNSTREAM_") and name != "OPENAI_API_KEY"]
    command = [*prefix, sys.executable, "-m", "runstream", "dev", "--port", str(port or free_port())]
    output = directory / f"printed-{time.monotonic_ns()}"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={name: os.environ[name] for name in names} | {"HOME": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield Dev(process, directory, output)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(DEADLINE)


@contextmanager
def ready_dev_in(directory: Path, *, prefix: Sequence[str] = ()) -> Iterator[Dev]:
    with dev_in(directory, prefix=prefix) as dev:
        dev.wait_for("Ctrl-C stops everything")
        yield dev


def assert_nothing_runs_in(directory: Path) -> None:
    """Every process of dev works in its directory, or in the servers' below it."""
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cwd", "cmdline"])
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(directory)
    ]
    assert not left


def test_other_commands_are_of_this_installation_once_its_settings_are_read(dev):
    run_id = dev.generate().raise_for_status().json()["id"]
    settings = Path(dev.fact("settings"))
    assert settings.stat().st_mode & 0o077 == 0
    runstream = f"{sys.executable} -m runstream"
    said = subprocess.run(
        f". {shlex.quote(str(settings))} && {runstream} doctor && {runstream} runs list && {runstream} tail {run_id}",
        shell=True,
        cwd=dev.directory,
        env={"PATH": os.environ["PATH"], "HOME": str(dev.directory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    ).stdout
    assert "All is well." in said
    assert "advice" not in said
    assert said.endswith("w0 w1 w2 w3 w4 ")
    assert all(run_id in said for run_id in dev.run_ids())


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One that several tests look at, in a directory of pytest's: those are closed to all other users."""
    directory = tmp_path_factory.mktemp("dev")
    try:
        with ready_dev_in(directory) as dev:
            yield dev
            assert dev.end(signal.SIGTERM) == 0
        assert_nothing_runs_in(directory)
    finally:
        for link in (directory / ".runstream").iterdir():
            if link.is_symlink():
                shutil.rmtree(link.resolve())


def test_what_it_prints_is_there(dev: Dev) -> None:
    assert dev.get("/readyz").status_code == 200
    assert dev.get("/").status_code == 200
    assert dev.fact("provider").startswith("simulated")
    key = dev.directory / ".runstream" / "key"
    assert key.read_text() == dev.fact("key") + "\n"
    assert key.stat().st_mode & 0o077 == 0
    assert set(dev.pids) == {"api", "worker", "provider", "Valkey", "Postgres"}


def test_the_printed_curl_line_streams_a_generation_to_its_end(dev: Dev) -> None:
    streamed = dev.curl()
    assert "event: run.delta" in streamed
    assert "event: run.completed" in streamed


@pytest.mark.parametrize("name", ["worker", "Valkey", "Postgres", "api"])
def test_a_process_that_dies_is_started_again_and_that_is_said_in_a_line(dev: Dev, name: str) -> None:
    pid = dev.pids[name]
    os.kill(pid, signal.SIGKILL)
    dev.wait_for(f"{name} (process {pid}) was ended by SIGKILL: started again as process ")
    _wait_until_ready(dev)
    assert dev.generate().json()["status"] == "completed"


def test_a_second_start_on_the_same_data_says_who_has_it(dev: Dev) -> None:
    with dev_in(dev.directory) as second:
        assert second.process.wait(DEADLINE) == 1
    (sentence,) = second.printed.splitlines()
    assert f"in use by another `runstream dev`, process {dev.process.pid}" in sentence
    assert "--data" in sentence
    assert dev.get("/readyz").status_code == 200


def test_a_port_in_use_is_told_with_the_option_that_mends_it(dev: Dev, server_directory: Path) -> None:
    port = httpx.URL(dev.fact("page")).port
    with dev_in(server_directory, port=port) as second:
        assert second.process.wait(DEADLINE) == 1
    (sentence,) = second.printed.splitlines()
    assert sentence.endswith(f"Port {port} on 127.0.0.1 is in use: stop what uses it, or give another with --port.")
    assert_nothing_runs_in(server_directory)


@as_root
def test_root_keeps_data_of_a_directory_that_is_closed_to_others_behind_a_link(dev: Dev) -> None:
    assert (dev.directory / ".runstream" / "postgres").is_symlink()
    assert psutil.Process(dev.pids["Postgres"]).uids().real != 0


def test_runs_and_key_outlive_a_kill_of_everything_and_ctrl_c_leaves_nothing_running(server_directory: Path) -> None:
    with ready_dev_in(server_directory) as first:
        first.generate()
        key, runs = first.fact("key"), first.run_ids()
        assert len(runs) == 1
        for pid in (first.process.pid, *first.pids.values()):
            os.kill(pid, signal.SIGKILL)
    with ready_dev_in(server_directory) as second:
        assert second.fact("key") == key
        assert second.run_ids() == runs
        assert second.end(signal.SIGINT) == 0
    assert_nothing_runs_in(server_directory)


def test_ctrl_c_while_it_starts_leaves_nothing_running(server_directory: Path) -> None:
    with dev_in(server_directory) as dev:
        dev.wait_for("Starting")
        assert dev.end(signal.SIGINT) == 0
    assert_nothing_runs_in(server_directory)


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv comes with Linux's util-linux")
def test_an_ordinary_user_runs_it_too(server_directory: Path) -> None:
    """The user may read every file, for the interpreter may be root's own, but is in all else an ordinary one."""
    home = server_directory / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    capability = "-all,+dac_read_search"
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    prefix += [f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}"]
    with ready_dev_in(home, prefix=prefix) as dev:
        assert {psutil.Process(pid).uids().real for pid in dev.pids.values()} == {NOBODY}
        assert dev.generate().json()["status"] == "completed"
        assert dev.end(signal.SIGINT) == 0
    assert_nothing_runs_in(home)


def _wait_until_ready(dev: Dev) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            if dev.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, dev.printed
        time.sleep(0.05)
