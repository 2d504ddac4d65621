"""What becomes of a provider's fault: the table in docs/providers.md, and what the storm holds runs against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """A row. `code` is that of the attempt's error, None where there is none."""

    does: str
    code: str | None
    again: str
    charged: str

    @property
    def tried_again(self) -> bool:
        return self.again.startswith("yes")

    @property
    def prompt_charged(self) -> bool:
        """Where the call ended so before its first token."""
        return "prompt" in self.charged

    def row(self) -> str:
        """As the table has it."""
        return f"| {self.does} | {f'`{self.code}`' if self.code else ''} | {self.again} | {self.charged} |"


OUTCOMES = {
    "answers": Outcome(
        "answers, even with no text, or cut off at its limit", None, "", "what it reports, else by estimate"
    ),
    "refuses": Outcome("refuses: 4xx but those below", "provider_refused", "no", "nothing"),
    "limits": Outcome("limits: 429", "provider_rate_limited", "yes, after `Retry-After`", "nothing"),
    "fails": Outcome(
        "fails: 408, 425, 5xx, no connection, an error in the stream", "provider_unavailable", "yes", "nothing"
    ),
    "is slow": Outcome(
        "does not begin, falls silent, does not finish in time", "provider_timeout", "yes", "its prompt, by estimate"
    ),
    "breaks off": Outcome(
        "breaks off, ends without a finish reason, sends what is not its protocol",
        "provider_protocol_error",
        "yes",
        "its prompt, by estimate",
    ),
}
