"""Which answers may be given again, and to which requests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

from runstream.domain.findings import Finding, flagged
from runstream.domain.run import Claim
from runstream.domain.usage import Usage
from runstream.gateway.routes import Target

_COMPLETE = frozenset({"stop", "tool_calls"})
"""Finish reasons of answers that nothing cut short."""


def request_key(claim: Claim, targets: Sequence[Target]) -> str:
    """A hash of all that shapes an answer, and of whose it is: requests that differ in any of it share nothing.

    `targets` are what the model stands for now: a route that is changed gives no answers of the one before.
    """
    shape = [
        claim.tenant,
        claim.feature,
        claim.prompt_version,
        claim.model,
        claim.complexity,
        [[target.provider, target.model] for target in targets],
        claim.input,
    ]
    return sha256(orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which answers are kept: complete and unflagged ones of more than `min_tokens` of output, for `ttl` seconds."""

    ttl: float
    min_tokens: int

    def keeps(self, finish_reason: str | None, usage: Usage | None, findings: Iterable[Finding]) -> bool:
        """The one place that decides it."""
        if finish_reason not in _COMPLETE or flagged(findings):
            return False
        return usage is not None and usage.output_tokens > self.min_tokens
