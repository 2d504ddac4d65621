"""`runstream run`, `tail` and `cancel` as a person uses them: real commands, and real outages."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from caller import DEADLINE, Caller, words
from runstream.embedded.port import free_port
from stack import Process, Stack

RUN_ID = "run_"
LONG = 200


class Command:
    """A `runstream` command that runs, and what it has printed so far."""

    def __init__(self, directory: Path, *arguments: str, stdin: bytes = b"", **environment: str) -> None:
        self.directory = directory / f"command-{time.monotonic_ns()}"
        self.directory.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")}
        (self.directory / "in").write_bytes(stdin)
        with (
            (self.directory / "in").open("rb") as standard_input,
            (self.directory / "out").open("wb") as out,
            (self.directory / "err").open("wb") as err,
        ):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runstream", *arguments],
                cwd=self.directory,
                env=clean | environment,
                stdin=standard_input,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return (self.directory / "out").read_bytes().decode()

    @property
    def err(self) -> str:
        return (self.directory / "err").read_text()

    @property
    def run_id(self) -> str:
        """Of the run that it started, once it says so."""
        self.until(lambda: RUN_ID in self.err and "\n" in self.err)
        return next(word.rstrip(";") for word in self.err.split() if word.startswith(RUN_ID))

    def until(self, seen: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not seen():
            assert self.process.poll() is None or seen(), (self.out, self.err)
            assert time.monotonic() < deadline, (self.out, self.err)
            time.sleep(0.01)

    def until_printed(self, count: int) -> None:
        """Until that many characters of the text are there."""
        self.until(lambda: len(self.out) >= count)

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE)


Start = Callable[..., Command]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Start]:
    """Starts commands; `command("tail", run_id, url=..., key=...)`."""
    started: list[Command] = []

    def start(*arguments: str, url: str, key: str | None = None, stdin: bytes = b"") -> Command:
        environment = {"RUNSTREAM_URL": url, **({"RUNSTREAM_KEY": key} if key is not None else {})}
        started.append(Command(tmp_path, *arguments, stdin=stdin, **environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(DEADLINE)


@contextmanager
def api_at(stack: Stack, url: str) -> Iterator[Process]:
    """Another API process of this stack, at an address that one had before."""
    port = url.rpartition(":")[2]
    api = Process("api-again", "api", "--port", port, directory=stack.directory, environment=stack.environment)
    try:
        yield api
    finally:
        api.kill()


def test_a_run_prints_the_text_alone_on_standard_output(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", "sim:20:200", url=stack.url, key=stack.key)
    assert run.exit_code() == 0
    assert run.out == words(20)
    assert run.err == f"Run {run.run_id}; elsewhere: runstream tail {run.run_id} --url {stack.url}\n"


def test_text_in_any_script_arrives_unchanged(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", "unicode:60", url=stack.url, key=stack.key)
    assert run.exit_code() == 0
    shown = httpx.get(f"{stack.url}/v1/runs/{run.run_id}", headers={"Authorization": f"Bearer {stack.key}"})
    assert run.out == shown.json()["output"]["text"]


def test_reasoning_and_tool_calls_are_shown_beside_the_text(stack: Stack, command: Start) -> None:
    thinks = command("run", "Count", "--model", "reasoning:3:5", url=stack.url, key=stack.key)
    calls = command("run", "Count", "--model", "tools:2:5", url=stack.url, key=stack.key)
    assert (thinks.exit_code(), calls.exit_code()) == (0, 0)
    assert (thinks.out, calls.out) == (words(5), words(5))
    assert thinks.err.splitlines()[1:] == ["r0 r1 r2 "]
    assert calls.err.splitlines()[1:] == [
        f'Calls {name}({{"text":"{words(2)}"}})' for name in ("look_up", "write_down")
    ]


def test_a_prompt_can_be_piped_in(stack: Stack, command: Start) -> None:
    piped = command("run", "-", "--model", "demo", url=stack.url, key=stack.key, stdin="Grüße\n".encode())
    piped.until(lambda: "Grüße" in piped.out)


def test_a_prompt_that_is_not_text_is_refused_in_a_sentence(stack: Stack, command: Start) -> None:
    run = command("run", "-", url=stack.url, key=stack.key, stdin=b"\xff\xfe")
    assert run.exit_code() == 1
    assert run.err == "runstream: The prompt is not UTF-8 text.\n"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_run_survives_that_the_api_is_replaced_in_the_middle(
    make_stack: Callable[..., Stack], command: Start, end: signal.Signals
) -> None:
    stack = make_stack()
    api = stack.apis[0]
    run = command("run", "Count", "--model", f"sim:{LONG}:60", url=api.url, key=stack.key)
    run.until_printed(100)
    os.kill(api.pid, end)
    api.wait()
    assert run.out != words(LONG)
    with api_at(stack, api.url):
        assert run.exit_code() == 0, run.err
        assert run.out == words(LONG)
    assert "Trying again." in run.err
    assert "Connected again." in run.err


def test_a_run_that_was_asked_for_before_the_server_stood_is_made_once_it_does(stack: Stack, command: Start) -> None:
    port = free_port()
    run = command("run", "Count", "--model", "sim:20", url=f"http://127.0.0.1:{port}", key=stack.key)
    run.until(lambda: "Trying again." in run.err)
    with front(stack.url, [], port):
        assert run.exit_code() == 0, run.err
        assert run.out == words(20)


async def test_a_request_whose_answer_was_lost_makes_no_second_run(stack: Stack, command: Start) -> None:
    async with Caller.of(stack, "lost-answer", "ada") as caller:
        with front(stack.url, ["lose", "busy", "pass"]) as url:
            run = command("run", "Count", "--model", "sim:20", url=url, key=caller.key)
            assert run.exit_code() == 0, run.err
        assert run.out == words(20)
        assert await caller.list() == [run.run_id]


def test_an_answer_that_asks_for_patience_is_waited_for(stack: Stack, command: Start) -> None:
    with front(stack.url, ["busy"]) as url:
        began = time.monotonic()
        run = command("run", "Count", "--model", "sim:5", url=url, key=stack.key)
        assert run.exit_code() == 0, run.err
    assert time.monotonic() - began >= 1
    assert "answered 429: Slow down." in run.err


def test_a_generation_that_begins_again_says_that_the_text_before_is_void(
    make_stack: Callable[..., Stack], command: Start
) -> None:
    stack = make_stack()
    run = command("run", "Count", "--model", f"sim:{LONG}:60", url=stack.url, key=stack.key)
    run.until_printed(100)
    stack.kill(stack.workers[0])
    stack.start_worker()
    assert run.exit_code() == 0, run.err
    void, _, rest = run.out.partition("\n[")
    told, _, after = rest.partition("]\n")
    assert void
    assert words(LONG).startswith(void)
    assert "begins again (attempt 2" in told
    assert told in run.err
    assert after == words(LONG)


def test_another_terminal_can_follow_the_same_run_from_its_beginning(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", f"sim:{LONG}:20", url=stack.url, key=stack.key)
    run.until_printed(1)
    tail = command("tail", run.run_id, url=stack.url, key=stack.key)
    tail.until_printed(1)
    assert run.process.poll() is None
    assert (run.exit_code(), tail.exit_code()) == (0, 0)
    assert run.out == tail.out == words(LONG)


def test_a_run_that_has_ended_can_be_read_again(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", "sim:20", url=stack.url, key=stack.key)
    assert run.exit_code() == 0
    tail = command("tail", run.run_id, url=stack.url, key=stack.key)
    assert tail.exit_code() == 0
    assert tail.out == words(20)


async def test_ctrl_c_leaves_the_run_going_and_says_how_to_come_back(stack: Stack, command: Start) -> None:
    async with Caller.of(stack, "interrupted", "ada") as caller:
        run = command("run", "Count", "--model", f"sim:{LONG}:100", url=stack.url, key=caller.key)
        run.until_printed(1)
        run.process.send_signal(signal.SIGINT)
        assert run.exit_code() == 130
        assert f"runstream tail {run.run_id}" in run.err
        assert f"runstream cancel {run.run_id}" in run.err
        assert (await caller.ended(run.run_id))["status"] == "completed"


def test_a_run_that_is_cancelled_ends_its_followers(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", "hang:5", url=stack.url, key=stack.key)
    run.until_printed(len(words(5)))
    cancel = command("cancel", run.run_id, url=stack.url, key=stack.key)
    assert cancel.exit_code() == 0
    assert cancel.err == f"Run {run.run_id} is cancelled.\n"
    assert run.exit_code() == 1
    assert run.out == words(5)
    assert run.err.endswith("The run was cancelled.\n")


def test_a_run_that_fails_says_why(stack: Stack, command: Start) -> None:
    run = command("run", "Count", "--model", "status:400", url=stack.url, key=stack.key)
    assert run.exit_code() == 1
    assert run.out == ""
    assert "The run failed (provider_refused): The provider answered 400" in run.err


def test_a_text_that_the_model_did_not_end_is_said_to_be_not_whole(
    make_stack: Callable[..., Stack], command: Start
) -> None:
    stack = make_stack(max_output_chars="7")
    run = command("run", "Count", "--model", "sim:5", url=stack.url, key=stack.key)
    assert run.exit_code() == 0
    assert run.out == words(5)[:7]
    assert run.err.endswith("The text is not whole: the model stopped for 'max_output_chars'.\n")


@pytest.mark.parametrize("arguments", [("run", "Count"), ("tail", "run_x"), ("cancel", "run_x")], ids=lambda a: a[0])
def test_a_wrong_key_is_one_sentence(stack: Stack, command: Start, arguments: tuple[str, ...]) -> None:
    refused = command(*arguments, url=stack.url, key="rs_wrong")
    assert refused.exit_code() == 1
    assert refused.err == (
        f"runstream: {stack.url} does not accept this API key: set RUNSTREAM_KEY to one of its own.\n"
    )


@pytest.mark.parametrize("name", ["tail", "cancel"])
def test_an_unknown_run_is_one_sentence(stack: Stack, command: Start, name: str) -> None:
    unknown = command(name, "run_x/../y", url=stack.url, key=stack.key)
    assert unknown.exit_code() == 1
    assert unknown.err == "runstream: There is no run 'run_x/../y' that this key may see.\n"


def test_a_model_that_is_not_configured_is_one_sentence(stack: Stack, command: Start) -> None:
    refused = command("run", "Count", "--model", "nothing", url=stack.url, key=stack.key)
    assert refused.exit_code() == 1
    assert refused.err == "runstream: No model of this name is configured.\n"


def test_an_address_where_nothing_answers_is_given_up_after_some_seconds(command: Start) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = command("run", "Count", url=url, key="rs_x")
    assert run.exit_code() == 1
    first, last = run.err.splitlines()
    assert first == f"{url} does not answer (Connection refused): is Runstream running there? Trying again."
    assert last == f"runstream: {url} does not answer (Connection refused): is Runstream running there?"


def test_an_address_of_something_else_is_one_sentence(stack: Stack, command: Start) -> None:
    run = command("run", "Count", url=f"{stack.provider_origin}/elsewhere", key="rs_x")
    assert run.exit_code() == 1
    assert run.err == (
        f"runstream: {stack.provider_origin}/elsewhere answered 404, but not as Runstream does: "
        "check RUNSTREAM_URL, or --url.\n"
    )


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://", "ftp://127.0.0.1", "http://u:secret@127.0.0.1", "http://[::1"]
)
def test_an_address_that_is_none_is_one_sentence_without_what_it_holds(command: Start, url: str) -> None:
    run = command("run", "Count", url=url, key="rs_x")
    assert run.exit_code() == 1
    assert run.err.startswith("runstream: RUNSTREAM_URL, or --url, is to be")
    assert "secret" not in run.err


def test_the_key_of_dev_is_used_where_dev_keeps_its_data(stack: Stack, tmp_path: Path) -> None:
    assert run_beside_dev(tmp_path, stack.url, stack.key).endswith(words(5))


def test_the_key_of_dev_is_sent_to_no_other_machine(stack: Stack, tmp_path: Path) -> None:
    told = run_beside_dev(tmp_path, "http://runstream.example", stack.key)
    assert told.startswith("runstream: There is no API key: set RUNSTREAM_KEY")


def test_a_terminal_gets_the_text_and_ends_the_line(stack: Stack) -> None:
    """Both streams are the terminal's: what is said about the run never stands within a line of the text."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "runstream", "run", "Count", "--model", "sim:3", "--url", stack.url]
    environment = {**os.environ, "RUNSTREAM_KEY": stack.key}
    process = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with closing(os.fdopen(ours, "rb", buffering=0)) as terminal:
        while chunk := _read(terminal.fileno()):
            shown += chunk
    assert process.wait(DEADLINE) == 0
    assert shown.decode().endswith("\r\nw0 w1 w2 \r\n")


def test_a_reader_that_goes_away_ends_the_command_quietly(stack: Stack) -> None:
    arguments = [sys.executable, "-m", "runstream", "run", "Count", "--model", "sim:500:200", "--url", stack.url]
    environment = {**os.environ, "RUNSTREAM_KEY": stack.key}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read().decode()
    assert len(said.splitlines()) == 1, said
    assert "Run run_" in said


def run_beside_dev(directory: Path, url: str, key: str) -> str:
    """What `runstream run` prints, without a key of its own, in a directory where dev keeps one."""
    (directory / ".runstream").mkdir()
    (directory / ".runstream" / "key").write_text(f"{key}\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")}
    done = subprocess.run(
        [sys.executable, "-m", "runstream", "run", "Count", "--model", "sim:5", "--url", url],
        cwd=directory,
        env=clean,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.stderr + done.stdout


@contextmanager
def front(target: str, acts: list[str], port: int = 0) -> Iterator[str]:
    """A server before another. It does one act for each POST, and passes all on once there is none left.

    "busy" asks to come back in a second; "lose" passes the request on and breaks off instead of answering.
    """

    class Front(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            act = acts.pop(0) if acts else "pass"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if act == "busy":
                self._answer(429, b'{"error": {"message": "Slow down.", "request_id": null}}', {"Retry-After": "1"})
                return
            answer = httpx.post(target + self.path, content=body, headers=self._passed(), timeout=DEADLINE)
            if act == "lose":
                self.close_connection = True
                return
            self._answer(answer.status_code, answer.content, {})

        def do_GET(self) -> None:
            answer = httpx.get(target + self.path, headers=self._passed(), timeout=DEADLINE)
            self._answer(answer.status_code, answer.content, {"Content-Type": answer.headers["Content-Type"]})

        def _passed(self) -> dict[str, str]:
            names = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
            return {name: self.headers[name] for name in names if name in self.headers}

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Front) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(DEADLINE)


def _read(terminal: int) -> bytes:
    """What stands there next; nothing once nobody writes to it any more."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
