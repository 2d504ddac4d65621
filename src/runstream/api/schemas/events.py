"""The data of a stream's events."""

from typing import Literal

from pydantic import BaseModel

from runstream.api.schemas.outcomes import Failure, UsageObject


class Started(BaseModel):
    """`run.started`: the first attempt begins."""

    run_id: str
    attempt: int
    model: str


class Delta(BaseModel):
    """`run.delta`: text that came; tokens that came together travel together."""

    text: str


class Reasoning(BaseModel):
    """`run.reasoning`: what the model said to itself, where its provider shows it. Pieces travel as text does."""

    text: str


class ToolCallOpened(BaseModel):
    """`run.tool_call`: the model calls a tool. Once for each `index`, before its arguments."""

    index: int
    id: str
    name: str


class ToolCallArguments(BaseModel):
    """`run.tool_call`: a piece of the arguments of the call with this `index`; joined, they are JSON."""

    index: int
    arguments: str


class Restarted(BaseModel):
    """`run.restarted`: forget all so far, the next attempt begins.

    With `resumed` it reads on what its provider has gone on with: the same text comes again, at once. Where the
    provider has lost it, a `run.restarted` of the same attempt without it says so.
    """

    attempt: int
    reason: str
    resumed: Literal[True] | None = None


class Completed(BaseModel):
    """`run.completed`: terminal. `cached` where the answer was there already, and nothing was paid for it."""

    status: Literal["completed"]
    finish_reason: str
    usage: UsageObject | None
    cost: str | None
    cached: Literal[True] | None = None


class Failed(BaseModel):
    """`run.failed`: terminal. `partial` says whether anything was said, and so kept."""

    error: Failure
    partial: bool


class Cancelled(BaseModel):
    """`run.cancelled`: terminal. `partial` says whether anything was said, and so kept."""

    partial: bool


EVENTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("run.started", Started),
    ("run.delta", Delta),
    ("run.reasoning", Reasoning),
    ("run.tool_call", ToolCallOpened),
    ("run.tool_call", ToolCallArguments),
    ("run.restarted", Restarted),
    ("run.completed", Completed),
    ("run.failed", Failed),
    ("run.cancelled", Cancelled),
)
"""The data of each event, by its name; those of a tool call come in two forms."""
