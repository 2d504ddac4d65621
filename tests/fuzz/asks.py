"""Requests of all operations that the OpenAPI document has, most of them with something wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

from tests.fuzz.drawing import BY_SCHEMA, Drawing
from tests.fuzz.known import Known
from tests.fuzz.people import USERS, Asking
from tests.fuzz.wire import STREAM, Ask, head

_MODELS = (
    "sim:3",
    "sim:20:200",
    "unicode:9",
    "reasoning:2:2",
    "tools:2",
    "error:1",
    "cut:3",
    "status:429:1",
    "nowhere",
)
_SLOW_MODELS = ("sim:300:50", "hang:1")
_IDS = {"run_id": "run", "key_id": "key", "webhook_id": "whk", "delivery_id": "evt", "erasure_id": "era"}
_NAMES = {"tenant_id": ("other-1", "other-2", "nobody"), "name": ("one", "two", "nothing")}
"""Of tenants of which nobody here is: those are suspended and removed."""
_URLS = ("https://example.com/hook", "http://127.0.0.1:9/", "https://[::1]/", "https://a.invalid:99999/", "ftp://a/")
_WAIT = 1.0


class Asks:
    """Draws them."""

    def __init__(self, document: Mapping[str, Any], known: Known, random: Random) -> None:
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        self._weights = [4 if path.startswith("/v1/runs") else 1 for _, path, _ in self._operations]
        self._known = known
        self._random = random
        self._asking = Asking("", [], None)
        self._clean = False
        """The request is to be right in all that the document says."""
        self._drawing = Drawing(
            document,
            random,
            {
                "model": self._model,
                "content": lambda: f"{self._mark} Say something.",
                "messages": self._messages,
                "user": lambda: random.choice(USERS),
                "feature": lambda: "chat",
                "url": lambda: random.choice(_URLS),
                "id": lambda: random.choice(_NAMES["tenant_id"]),
                "wait": lambda: random.choice([0, 0.2, _WAIT]),
                "after": known.event,
                "Last-Event-ID": known.event,
                "Idempotency-Key": lambda: f"key-{random.randrange(40)}",
                "Prefer": lambda: random.choice(["wait=0", f"wait={_WAIT:.0f}", "respond-async", "wait=x"]),
                "response_format": lambda: None,
                "group_by": lambda: ",".join(random.sample(["tenant", "user", "feature", "model", "day"], 2)),
                "expires_at": lambda: random.choice([None, "2031-01-01T00:00:00Z", "2020-01-01T00:00:00Z"]),
            },
            text=lambda: self._mark,
            id=lambda prefix: known.id(prefix, self._asking.sees),
        )

    def next(self, asking: Asking) -> Ask:
        random = self._random
        self._asking = asking
        self._clean = random.random() < 0.5
        method, path, operation = random.choices(self._operations, self._weights)[0]
        names = {
            name: self._known.id(prefix, self._asking.sees) for name, prefix in _IDS.items() if f"{{{name}}}" in path
        }
        names |= {name: random.choice(some) for name, some in _NAMES.items() if f"{{{name}}}" in path}
        query, own = self._parameters(operation)
        headers = [("Host", "api.test"), ("Connection", "close"), *asking.headers, *own]
        if random.random() < 0.3:
            headers.append(("Accept", random.choice([STREAM, STREAM, "application/json", "text/csv", "*/*"])))
        body = self._body(operation, headers)
        target = path.format(user=random.choice(USERS), **{name: quote(id_) for name, id_ in names.items()})
        target += f"?{urlencode(query, doseq=True, errors='surrogatepass')}" if query else ""
        asked = Ask(
            f"{method} {path}",
            asking.token,
            headers,
            b"",
            method=method,
            target=target,
            waits=_WAIT,
            reads=random.choice([0.05, 0.3, 1]),
            names=list(names.values())[-1] if names else None,
        )
        if self._spoils(0.08):
            asked = self._elsewhere(asked)
        if body is not None and not self._spoils(0.05):
            headers.append(("Content-Length", str(len(body))))
        asked = replace(asked, sent=head(asked.method, asked.target, headers) + (body or b""))
        return self._broken(asked) if self._spoils(0.08) else asked

    def _spoils(self, chance: float) -> bool:
        return not self._clean and self._random.random() < chance

    @property
    def _mark(self) -> str:
        return self._asking.mark

    def _messages(self) -> Any:
        if not self._clean:
            return BY_SCHEMA
        return [{"role": "user", "content": f"{self._mark} Say something."}]

    def _model(self) -> str:
        return self._random.choice(_MODELS if self._random.random() < 0.97 else _SLOW_MODELS)

    def _parameters(self, operation: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        random, drawing = self._random, self._drawing
        query: dict[str, Any] = {}
        headers: list[tuple[str, str]] = []
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path" or random.random() < 0.6:
                continue
            name = parameter["name"]
            value = drawing.nasty() if self._spoils(0.2) else drawing.value(parameter["schema"], name)
            if parameter["in"] == "query":
                query[name] = "" if value is None else value if isinstance(value, list) else str(value)
            else:
                headers.append((name, str(value)[:2000]))
        if self._spoils(0.1):
            query[drawing.nasty_text()[:2000]] = drawing.nasty_text()[:2000]
        if self._spoils(0.15):
            headers.append((random.choice(_HEADERS), drawing.nasty_text()[:2000]))
        return query, headers

    def _body(self, operation: Mapping[str, Any], headers: list[tuple[str, str]]) -> bytes | None:
        random, drawing = self._random, self._drawing
        if "requestBody" not in operation:
            if not self._spoils(0.1):
                return None
            return drawing.written(drawing.nasty())
        ((kind, content),) = operation["requestBody"]["content"].items()
        if not operation["requestBody"].get("required") and random.random() < 0.3:
            return None
        value = drawing.value(content["schema"])
        if self._spoils(0.6):
            value = drawing.spoilt(value)
        written = drawing.written(value)
        if self._spoils(0.1):
            kind = random.choice(["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x"])
        if self._spoils(0.1):
            cut = random.randrange(len(written) + 1)
            bad = [written[:cut], b"\xef\xbb\xbf" + written, written[:cut] + b"\xff\xfe" + written[cut:], written * 2]
            written = random.choice(
                [
                    *bad,
                    b"",
                    b"{" * 100_000,
                    b"[" * 3000 + b"]" * 3000,
                    written.decode(errors="replace").encode("utf-16"),
                ]
            )
        headers.append(("Content-Type", kind))
        if self._spoils(0.04):
            headers.append(random.choice([("Content-Encoding", "gzip"), ("Expect", "100-continue")]))
        return written

    def _elsewhere(self, asked: Ask) -> Ask:
        random = self._random
        if random.random() < 0.3:
            method = random.choice(["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "GET", "POST"])
            return replace(asked, method=method, spoilt=True, names=None)
        path = asked.target
        nasty = quote(self._drawing.nasty_text()[:500], safe="/%?#", errors="replace")
        return replace(
            asked,
            target=random.choice(
                [path + "/", path.upper(), path + nasty, f"/v1/{nasty}", f"//{path}", "*", f"/v1/..{path}"]
            ),
            spoilt=True,
            names=None,
        )

    def _broken(self, asked: Ask) -> Ask:
        """Bytes that are others, or missing, or too many."""
        random, sent = self._random, asked.sent
        place = random.randrange(len(sent))
        noise = bytes(random.choices(range(256), k=random.choice([1, 3, 40])))
        sent = random.choice(
            [
                sent[:place],
                sent[:place] + noise + sent[place:],
                sent[:place] + noise + sent[place + len(noise) :],
                sent.replace(b"\r\n", b"\n", 1),
                sent.replace(b"HTTP/1.1", random.choice([b"HTTP/1.0", b"HTTP/9.9", b"", b"http/1.1"]), 1),
                sent.replace(b"Content-Length: ", b"Content-Length: 9", 1),
                sent.replace(b"Host: api.test", b"Transfer-Encoding: chunked\r\nHost: api.test", 1),
                sent.replace(b"Host: api.test", b"Host: a\r\nX: " + b"x" * 70_000, 1),
                sent.replace(b"Host: api.test", b"Y: y\r\n" * 200 + b"Host: a", 1),
            ]
        )
        return replace(asked, sent=sent, broken=True, names=None)


_HEADERS = (
    *("Runstream-Tenant", "Runstream-User", "Last-Event-ID", "Idempotency-Key", "Prefer", "Accept", "Origin", "Range"),
    *("X-Request-Id", "X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "Cookie", "If-None-Match", "Upgrade"),
    *("Access-Control-Request-Method", "Accept-Encoding", "traceparent", "Content-Type", "Transfer-Encoding", "TE"),
)
