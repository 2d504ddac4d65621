"""Plans and flags: for operators."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from runstream.domain.audit import Action, Actor
from runstream.domain.errors import InvalidField, NotFound
from runstream.domain.principal import is_name
from runstream.queue.control import announce_terms
from runstream.storage.documents import Document, DocumentStore
from runstream.terms.copy import TermsCopy


class Named:
    """Of one kind. Every change is in effect within a second in all processes, and at once in this one.

    Who changes anything is in the audit log. All raise Unavailable.
    """

    def __init__(self, kind: str, store: DocumentStore, redis: Redis, terms: TermsCopy) -> None:
        self._kind = kind
        self._store = store
        self._redis = redis
        self._terms = terms

    async def list(self) -> Sequence[Document]:
        return await self._store.list()

    async def get(self, name: str) -> Document:
        """Raises NotFound."""
        found = await self._store.get(name)
        if found is None:
            raise self._missing()
        return found

    async def put(self, name: str, said: Mapping[str, Any], *, by: Actor) -> Document:
        """Make it, or have it say this in the place of all that it said. Raises InvalidField."""
        if not is_name(name):
            raise InvalidField(f"A {self._kind}'s name is 1 to 64 letters, digits, '_', '.' or '-'.", param="name")
        flat = {part: value for part, value in said.items() if isinstance(value, bool | int | float)}
        entry = by.entry(Action(f"{self._kind}.set"), tenant=None, target=name, says=sorted(said), **flat)
        put = await self._store.put(name, said, entry=entry)
        await self._changed()
        return put

    async def remove(self, name: str, *, by: Actor) -> None:
        """Raises NotFound, and Conflict where a tenant has it."""
        entry = by.entry(Action(f"{self._kind}.removed"), tenant=None, target=name)
        if not await self._store.remove(name, entry=entry):
            raise self._missing()
        await self._changed()

    async def _changed(self) -> None:
        await self._terms.read()
        await announce_terms(self._redis)

    def _missing(self) -> NotFound:
        return NotFound(f"There is no such {self._kind}.")
