"""What is wrong with an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.fuzz.known import EVENT, ID, Known
from tests.fuzz.people import MARK, Sees
from tests.fuzz.wire import Answer, Ask

_LATER = 3.0
"""Seconds after which a deletion has been heard of everywhere: a second, and what a busy machine makes of it."""
_SECRET = re.compile(r"r[st]_[A-Za-z0-9_-]{20,}|whsec_[A-Za-z0-9+/]{20,}")
_SHOW_SECRETS = ("POST /v1/keys", "POST /v1/webhooks", "/rotate", "/token")
_OF_ALL = "GET /v1/audit"
"""What an operator that names no tenant is shown of all of them, and a tenant of the operators that looked at it."""
_NAME_OPERATORS = {_OF_ALL, "GET /v1/export"}
_FOR_USERS = "/{run_id}/feedback"
"""What a server writes of a user's run, that user is shown."""
_OPERATORS = (None, None)
_OF_OPERATORS = re.compile(r"[A-Z]+ /v1/(tenants|plans|flags)\b")
"""What these show is what operators wrote, for whichever tenant."""
_HARMLESS_AGAIN = "DELETE /v1/runs/{run_id}"
_OF_ANY = frozenset({400, 431})
"""What a request is answered that is no HTTP, or has too large a head, whatever it asks for."""
_ERROR = {"code", "message", "param", "request_id"}


class Oracle:
    """Goes by what it can know; what the address names may be gone, so 404 is right for most."""

    def __init__(self, document: Mapping[str, Any], known: Known) -> None:
        self._known = known
        self._answers = {
            f"{method.upper()} {path}": set(map(int, operation["responses"]))
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }

    def faults(self, asked: Ask, answer: Answer | None, sees: Sees | None) -> Iterator[str]:
        """`sees` is None where nobody knows what may be shown."""
        if answer is None:
            if not asked.broken:
                yield "no answer"
            return
        if answer.status >= 500:
            yield f"{answer.status}: {answer.text[:300]}"
        if not (answer.whole or answer.is_stream or asked.broken):
            yield "the answer is cut short"
        if "x-request-id" not in answer.headers:
            yield "no request id"
        if not (asked.broken or asked.spoilt):
            if answer.status not in self._answers[asked.operation] | _OF_ANY:
                yield f"{answer.status} is not in the document"
            yield from self._forms(asked, answer)
            yield from self._late(asked, answer)
        of_all = asked.operation == _OF_ALL and sees is not None and sees.tenant is None
        if sees is not None and not asked.broken and not of_all and not _OF_OPERATORS.match(asked.operation):
            yield from self._shown(asked, answer, sees)

    def _forms(self, asked: Ask, answer: Answer) -> Iterator[str]:
        kind = answer.headers.get("content-type", "")
        if answer.status in {204, 304} or asked.method == "HEAD":
            return
        try:
            said = json.loads(answer.body) if kind.startswith("application/json") else None
        except ValueError:
            yield f"no JSON: {answer.text[:300]}"
            return
        if answer.status >= 400 and not (isinstance(said, dict) and set(said.get("error", {})) == _ERROR):
            yield f"no error in {answer.text[:300]}"
        if answer.is_stream:
            seen = [tuple(map(int, each.split("-"))) for each in EVENT.findall(answer.text)]
            if seen != sorted(set(seen)):
                yield f"events out of order: {seen[:50]}"

    def _late(self, asked: Ask, answer: Answer) -> Iterator[str]:
        if 401 not in self._answers[asked.operation]:  # it is open to all
            return
        if asked.operation == _HARMLESS_AGAIN and asked.names in self._known.gone:
            return
        gone = self._known.gone
        made_again = _OF_OPERATORS.match(asked.operation)  # under the same name, by whoever puts it there
        for what in (None if made_again else asked.names, asked.token):
            if what in gone and answer.began > gone[what] + _LATER and answer.status < 400:
                yield f"{what[:8]}... is gone for {answer.began - gone[what]:.1f} s"

    def _shown(self, asked: Ask, answer: Answer, sees: Sees) -> Iterator[str]:
        said, text = asked.sent.decode("latin-1"), answer.text
        for tenant, user in set(MARK.findall(text)):
            if asked.operation.endswith(_FOR_USERS) and (tenant, user) == (sees.tenant, ""):
                continue
            if not sees.owner(tenant, user or None) and f"mark-{tenant}-{user}." not in said:
                yield f"shows what {tenant}'s {user or 'server'} wrote"
        for id_ in set(ID.findall(text)):
            if asked.operation in _NAME_OPERATORS and self._known.owner(id_) == _OPERATORS:
                continue
            if self._known.hidden(id_, sees) and id_ not in said:
                yield f"names {id_}, of {self._known.owner(id_)}"
        if _SECRET.search(text) and not asked.operation.endswith(_SHOW_SECRETS):
            yield "shows a secret"
