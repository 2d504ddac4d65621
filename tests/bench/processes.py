"""Starting, watching and ending the processes under test."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

START_DEADLINE_S = 90
STOP_DEADLINE_S = 3
POLL_S = 0.02


class SystemFailed(Exception):
    """A process of a system did not start, or has ended; says which, and its last words."""


class Launcher:
    """Starts processes in `directory`, where each also keeps its output."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started = 0

    @asynccontextmanager
    async def running(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        port: int | None = None,
        cwd: Path | None = None,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process for as long as the block lasts, from the moment it listens on its port, if it has one.

        A failure of the system that passes through takes the process's last words along.
        """
        self.started += 1
        log = self.directory / f"{self.started:03}-{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment(env), cwd=cwd or self.directory,
            )  # fmt: skip
        try:
            if port:
                await listening(process, port)
            yield process
            expect_alive(process)
        except SystemFailed as failure:
            state = "running" if process.returncode is None else f"ended with {process.returncode}"
            raise SystemFailed(f"{failure}; {name} ({state}) said last: {last_line(log)}") from failure
        finally:
            await stop(process)

    async def output(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a command to its end and answer what it printed."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=environment(env), cwd=self.directory,
        )  # fmt: skip
        printed, complaint = await process.communicate()
        if process.returncode:
            said = complaint.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise SystemFailed(f"{name} ended with {process.returncode}: {said[-1]}")
        return printed.decode()


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any Runstream configuration in it, and `own`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")}
    return {**inherited, **own}


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_DEADLINE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def expect_alive(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        raise SystemFailed("a process ended by itself")


async def listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until something accepts connections on the port."""
    with suppress(TimeoutError):
        async with asyncio.timeout(START_DEADLINE_S):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(POLL_S)
                else:
                    writer.close()
                    return
    raise SystemFailed(f"nothing listens on port {port}")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"
