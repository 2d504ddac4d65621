"""Servers that others wrote, which speak the providers' protocols and break on demand: each one a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
from tests import npm

from runstream.embedded.port import free_port

AIMOCK = "@copilotkit/aimock@1.43.0"
DEADLINE = 60


class Foreign:
    """A server and how it is told what to do: of each model its answers in turn, the last one again and again."""

    KINDS = ("anthropic", "openai", "openai-responses")
    name: str
    paths: ClassVar[Mapping[str, str]] = {}
    """What follows its address in a provider's base URL, by the provider's kind, where that is not `/v1`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False)

    def base_url(self, kind: str) -> str:
        return self.url + self.paths.get(kind, "/v1")

    def reset(self) -> None:
        raise NotImplementedError

    def will(self, model: str, *answers: Mapping[str, Any]) -> None:
        """Answers, in its own words, as the methods below give them."""
        raise NotImplementedError

    def reply(self, text: str, **fields: Any) -> dict[str, Any]:
        raise NotImplementedError

    def calls(self, text: str, called: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tool calls, each with `name` and `arguments`, after some text."""
        raise NotImplementedError

    def refusal(self, status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
        raise NotImplementedError

    def late(self, text: str) -> dict[str, Any]:
        """Nothing comes for half a minute."""
        raise NotImplementedError

    def broken(self, text: str, fault: str, after: int) -> dict[str, Any]:
        """`fault` is one of those that the server knows; `after` so many events."""
        raise NotImplementedError

    def requests(self) -> list[str]:
        """The model of each call, in order."""
        raise NotImplementedError


class Llmock(Foreign):
    """PyPI's llmock."""

    name = "llmock"
    paths: ClassVar = {"anthropic": "/anthropic/v1"}

    def reset(self) -> None:
        self.http.post("/_llmock/reset").raise_for_status()

    def will(self, model: str, *answers: Mapping[str, Any]) -> None:
        behaviors = [
            {"type": type_, "match": {"model": model}, **fields} for each in answers for type_, fields in each.items()
        ]
        self.http.post("/_llmock/scenario", json={"behaviors": behaviors}).raise_for_status()

    def reply(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"reply": {"text": text, **fields}}

    def calls(self, text: str, called: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self.reply(text, tool_calls=called)

    def refusal(self, status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
        return {"fail": {"status": status, "message": message, "retry_after": retry_after}}

    def late(self, text: str) -> dict[str, Any]:
        return {**self.reply(text), "slow_first_token": {"seconds": 30}}

    def broken(self, text: str, fault: str, after: int) -> dict[str, Any]:
        """`fault` is one of `disconnect`, `truncate`, `malformed`, `stall`, after so many events."""
        return {**self.reply(text), "stream_fault": {"kind": fault, "after_chunks": after}}

    def requests(self) -> list[str]:
        return [each["model"] for each in self.http.get("/_llmock/requests").raise_for_status().json()["requests"]]


class Aimock(Foreign):
    """npm's aimock. An answer's text comes in pieces of ten characters."""

    name = "aimock"

    def reset(self) -> None:
        self.http.post("/__aimock/reset").raise_for_status()

    def will(self, model: str, *answers: Mapping[str, Any]) -> None:
        fixtures = [
            {"match": {"model": model, "sequenceIndex": number}, "chunkSize": 10, **each}
            for number, each in enumerate(answers)
        ]
        fixtures.append({"match": {"model": model}, "chunkSize": 10, **answers[-1]})
        self.http.post("/__aimock/fixtures", json={"fixtures": fixtures}).raise_for_status()

    def reply(self, text: str, **fields: Any) -> dict[str, Any]:
        """`output_tokens` is what it reports; by itself it reports none but in chat completions."""
        tokens = fields.pop("output_tokens", len(text))
        usage = {"prompt_tokens": 7, "input_tokens": 7, "completion_tokens": tokens, "output_tokens": tokens}
        if "finish_reason" in fields:
            fields["finishReason"] = fields.pop("finish_reason")
        return {"response": {"content": text, "usage": usage, **fields}}

    def calls(self, text: str, called: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self.reply(text, toolCalls=called)

    def refusal(self, status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
        fields = {} if retry_after is None else {"retryAfter": retry_after}
        return {"response": {"error": {"message": message}, "status": status, **fields}}

    def late(self, text: str) -> dict[str, Any]:
        return {**self.reply(text), "streamingProfile": {"ttft": 30_000}}

    def broken(self, text: str, fault: str, after: int) -> dict[str, Any]:
        """`disconnect` comes after so many events, `stall` after one; `malformed`, `drop`, `vanish` in their place."""
        faults: dict[str, dict[str, Any]] = {
            "disconnect": {"truncateAfterChunks": after, "latency": 5},
            "stall": {"streamingProfile": {"ttft": 0, "tps": 0.05}},
            "malformed": {"chaos": {"malformedRate": 1}},
            "drop": {"chaos": {"dropRate": 1}},
            "vanish": {"chaos": {"disconnectRate": 1}},
        }
        return {**self.reply(text), **faults[fault]}

    def requests(self) -> list[str]:
        return [each["body"]["model"] for each in self.http.get("/__aimock/journal").raise_for_status().json()]


@contextmanager
def llmock() -> Iterator[Llmock]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("llmock")), "serve", "--port", str(port)]
    with _running(command, f"http://127.0.0.1:{port}") as url:
        yield Llmock(url)


@contextmanager
def aimock() -> Iterator[Aimock]:
    """Where there is Node; see `npm.node`."""
    node = npm.node()
    program = npm.installed(AIMOCK) / "node_modules/@copilotkit/aimock/dist/aimock-cli.js"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="runstream-aimock-") as directory:
        Path(directory, "fixtures.json").write_text('{"fixtures": []}')
        config = Path(directory, "aimock.json")
        config.write_text('{"llm": {"fixtures": "./fixtures.json"}}')
        command = [node, str(program), "--config", str(config), "--port", str(port)]
        with _running(command, f"http://127.0.0.1:{port}", directory) as url:
            yield Aimock(url)


@contextmanager
def _running(command: list[str], url: str, directory: str | None = None) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)
    try:
        transport = httpx.HTTPTransport(retries=12)  # half a second, doubled each time
        with httpx.Client(transport=transport, base_url=url, trust_env=False) as client:
            client.get("/health").raise_for_status()
        yield url
    finally:
        process.kill()
        process.wait()
