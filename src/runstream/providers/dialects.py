"""What a server's models take, where that differs from model to model and nothing but a refusal tells."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import httpx

from runstream.domain.errors import ProviderAnswerLost
from runstream.providers.account import Account, error_body
from runstream.providers.base import Call, Piece, Timeouts
from runstream.providers.gathering import Gathering
from runstream.providers.patience import Patience

D = TypeVar("D")
_MAX_LEARNED = 1000


class Dialects(Generic[D]):
    """Asks in the dialect that is known for the call's model. What a refusal teaches is kept for the next calls."""

    def __init__(
        self,
        account: Account,
        url: httpx.URL,
        *,
        first: D,
        written: Callable[[Call, D], Mapping[str, Any]],
        taught: Callable[[D, int, object], D | None],
    ) -> None:
        """`taught` gives the dialect that a refusal (its status, its body) asks for, if it is about one."""
        self._account = account
        self._url = url
        self._first = first
        self._written = written
        self._taught = taught
        self._learned: dict[str, D] = {}

    def answer(
        self, call: Call, gathering: Gathering, timeouts: Timeouts
    ) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """See `Provider.stream`. Waiting for another key, once one was refused, is no silence of the server's."""
        patience = Patience(timeouts)
        asked = replace(call, take_key=partial(patience.apart, call.take_key)) if call.take_key else call
        return self._account.answer(lambda: self.open(asked, timeouts.connect), gathering, call, timeouts, patience)

    async def open(self, call: Call, connect: float, key: str | None = None) -> httpx.Response:
        """The head of an accepted answer. A refusal that teaches a dialect is answered in it, at once.

        Raises a `ProviderError`; `ProviderAnswerLost` for a call that resumes: this way none is.
        """
        if call.resume is not None:
            raise ProviderAnswerLost
        known = dialect = self._learned.get(call.model, self._first)
        asked: list[Mapping[str, Any]] = []
        while True:
            asked.append(self._written(call, dialect))
            response = await self._account.ask(self._url, asked[-1], connect, key, call.take_key)
            if response.is_success:
                if dialect != known:
                    self._learn(call.model, dialect)
                return response
            body = await error_body(response)
            better = self._taught(dialect, response.status_code, body)
            if better is None or self._written(call, better) in asked:
                raise self._account.refusal(response, body, call)
            dialect = better

    def _learn(self, model: str, dialect: D) -> None:
        if len(self._learned) >= _MAX_LEARNED:
            self._learned.clear()
        self._learned[model] = dialect
