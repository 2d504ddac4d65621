"""The erasure of a user, as it is asked for."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from runstream.storage.erasures import Erasure


class ErasureObject(BaseModel):
    """Whether it is `done`, and of how many runs so far. What was made after `asked_at` is not erased."""

    id: str
    object: Literal["erasure"] = "erasure"
    status: Literal["running", "done"]
    runs: int
    asked_at: datetime
    done_at: datetime | None

    @classmethod
    def of(cls, erasure: Erasure) -> "ErasureObject":
        return cls(
            id=erasure.id,
            status="running" if erasure.done_at is None else "done",
            runs=erasure.runs,
            asked_at=erasure.asked_at,
            done_at=erasure.done_at,
        )
