"""Tokens for one run: what is asked for, and what is given."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runstream.access.run_tokens import LONGEST_LIFE, SHORTEST_LIFE, Access


class RunTokenRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    access: Annotated[Access, Field(description="What whoever has the token may do to the run.")] = Access.READ
    expires_in: Annotated[
        int, Field(ge=SHORTEST_LIFE, le=LONGEST_LIFE, description="Seconds that the token is good for, at most.")
    ] = 900


class RunTokenObject(BaseModel):
    """A token, which is shown this once. It ends before `expires_at` if what it was asked for with is revoked."""

    object: Literal["run_token"] = "run_token"
    run_id: str
    access: Access
    token: str
    expires_at: datetime
