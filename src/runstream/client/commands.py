"""What a person's client does: a run's text in the terminal, whatever becomes of the connection."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runstream.client.access import DEFAULT_URL, checked_key, checked_url
from runstream.client.screen import Screen
from runstream.client.server import Server
from runstream.domain import events
from runstream.domain.errors import InvalidRequest, Unavailable

_COMPLETED, _NOT_COMPLETED, _INTERRUPTED = 0, 1, 130
_WHOLE: Final = frozenset({"stop", "tool_calls"})
"""The finish reasons of an answer that the model ended by itself."""


@dataclass(slots=True)
class _ToolCall:
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Client:
    """What a command does, and its exit code: 0 where the run completed, 1 where it did not, 130 after Ctrl-C.

    Raises RunstreamError, whose message is for the person, where the server refuses or cannot be reached.
    """

    def __init__(self, url: str, key: str | None) -> None:
        """Without a key, that of `runstream dev` on this machine, if its data are in this directory."""
        self._url = checked_url(url)
        self._screen = Screen(sys.stdout, sys.stderr)
        self._server = Server(self._url, checked_key(self._url, key), self._screen.say)
        self._calls: dict[int, _ToolCall] = {}

    def run(self, prompt: str, model: str | None) -> int:
        """Start a run and follow it to its end; "-" takes the prompt from standard input."""
        text = _prompt(prompt)
        try:
            run_id = self._server.create(text, model)
        except KeyboardInterrupt:
            self._screen.say("Stopped before the server said that it accepted the run.")
            return _INTERRUPTED
        self._screen.say(f"Run {run_id}; elsewhere: {self._command('tail', run_id)}")
        return self.tail(run_id)

    def tail(self, run_id: str) -> int:
        """Print a run's text from its beginning, and follow it to its end; beside it, its reasoning and tool calls."""
        try:
            for event in self._server.follow(run_id):
                self._show(event.type, event.data)
                if event.type in events.TERMINAL:
                    self._say_calls()
                    return self._end(event.type, event.data)
        except KeyboardInterrupt:
            self._say_how_to_go_on(run_id)
            return _INTERRUPTED
        except Unavailable:
            self._say_how_to_go_on(run_id)
            raise
        finally:
            self._screen.close()
        raise InvalidRequest(f"Run {run_id} has ended, and the server does not say how.")

    def cancel(self, run_id: str) -> int:
        """Stop a run. That it has ended already is no failure."""
        self._screen.say(f"Run {run_id} is {self._server.cancel(run_id)}.")
        return 0

    def _show(self, type_: str, data: Mapping[str, Any]) -> None:
        if type_ == events.DELTA:
            self._screen.write(data["text"])
        elif type_ == events.REASONING:
            self._screen.think(data["text"])
        elif type_ == events.TOOL_CALL:
            call = self._calls.setdefault(data["index"], _ToolCall())
            call.name += data.get("name", "")
            call.arguments.append(data.get("arguments", ""))
        elif type_ == events.RESTARTED:
            self._calls.clear()
            self._screen.void(f"The run begins again (attempt {data['attempt']}, {data['reason']})")

    def _say_calls(self) -> None:
        """Each call whole: their pieces may have come in turns."""
        for _, call in sorted(self._calls.items()):
            self._screen.say(f"Calls {call.name}({''.join(call.arguments)})")

    def _end(self, type_: str, data: Mapping[str, Any]) -> int:
        if type_ == events.COMPLETED:
            if data["finish_reason"] not in _WHOLE:
                self._screen.say(f"The text is not whole: the model stopped for '{data['finish_reason']}'.")
            return _COMPLETED
        if type_ == events.FAILED:
            self._screen.say(f"The run failed ({data['error']['code']}): {data['error']['message']}")
        else:
            self._screen.say("The run was cancelled.")
        return _NOT_COMPLETED

    def _say_how_to_go_on(self, run_id: str) -> None:
        tail, cancel = self._command("tail", run_id), self._command("cancel", run_id)
        self._screen.say(f"The run goes on. To follow it: {tail}; to stop it: {cancel}")

    def _command(self, name: str, run_id: str) -> str:
        return f"runstream {name} {run_id}" + ("" if self._url == DEFAULT_URL else f" --url {self._url}")


def _prompt(given: str) -> str:
    """Raises InvalidRequest where it is not text."""
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode()
        given.encode()
    except UnicodeError:
        raise InvalidRequest("The prompt is not UTF-8 text.") from None
    return given
