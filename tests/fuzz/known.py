"""What answers have named, and whose that is."""

from __future__ import annotations

import re
from collections import defaultdict
from random import Random
from time import monotonic

from sqlalchemy import column, select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.fuzz.people import Sees

from runstream.domain.ids import new_id
from runstream.storage.tables import metadata

ID = re.compile(r"(?<![a-z0-9_])[a-z]{2,6}_[0-9a-hjkmnp-tv-z]{26}(?![a-z0-9])")
EVENT = re.compile(r"^id: ([0-9]+-[0-9]+)$", re.MULTILINE)
_RECENT = 200
_OWN = 0.7
_REQUEST = "req_"


class Known:
    """Ids by their prefix, the latest ones. Owners are read from Postgres, so that what is deleted is known still."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ids: dict[str, list[str]] = defaultdict(list)
        self._events: list[str] = ["1-0"]
        self._owners: dict[str, tuple[str, str | None]] = {}
        self.gone: dict[str, float] = {}
        """What was deleted, and when that was answered."""

    def learn(self, text: str) -> None:
        for found in set(ID.findall(text)):
            ids = self._ids[found.partition("_")[0]]
            if not found.startswith(_REQUEST) and found not in ids[-20:]:
                ids.append(found)
                del ids[:-_RECENT]
        self._events = [*self._events, *EVENT.findall(text)[-2:]][-_RECENT:]

    def id(self, prefix: str, sees: Sees | None) -> str:
        """Mostly one that is seen."""
        ids = self._ids[prefix]
        if sees is not None and self._random.random() < _OWN:
            ids = [each for each in ids if each in self._owners and not self.hidden(each, sees)] or ids
        return self._random.choice([*ids, *ids[-3:], new_id(prefix)])

    def event(self) -> str:
        return self._random.choice(self._events)

    def deleted(self, id_: str) -> None:
        self.gone[id_] = monotonic()

    async def look(self, engine: AsyncEngine) -> None:
        """Learn whose everything is that there is."""
        async with engine.connect() as connection:
            for table in metadata.sorted_tables:
                if {"id", "tenant"} <= set(table.c.keys()):
                    user = table.c.user_id if table.name == "runs" else column("null", is_literal=True)
                    for id_, tenant, whose in await connection.execute(select(table.c.id, table.c.tenant, user)):
                        self._owners[id_] = tenant, whose

    def owner(self, id_: str) -> tuple[str, str | None] | None:
        return self._owners.get(id_)

    def hidden(self, id_: str, sees: Sees) -> bool:
        owner = self._owners.get(id_)
        return owner is not None and not sees.owner(*owner)
