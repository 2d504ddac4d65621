"""What the clients are going to do, drawn from the seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from tests.chaos.models import KINDS, Kind


@dataclass(frozen=True)
class Ask:
    """One request for a run, and what is done with the run."""

    number: int
    seed: str
    kind_name: str
    model: str
    key: str | None
    """With an Idempotency-Key the POST is repeated until it is answered."""
    posts: int
    """How many times it is posted at the same moment, at different API processes."""
    streamed: bool
    """The POST's own answer is the first reader's."""
    readers: int
    late: bool
    """One more reader comes once the run has ended."""
    cancel_after: float | None
    again: bool
    """A run that a reader saw fail, or be cancelled, is tried again."""

    @property
    def kind(self) -> Kind:
        return KINDS[self.kind_name]

    @property
    def prompt(self) -> str:
        """Names the request to the provider; nobody's log may hold it."""
        return f"asked {self.seed} {self.number}"

    def random(self, purpose: str) -> Random:
        return Random(f"{self.seed} {self.number} {purpose}")


def draw_asks(seed: int, kinds: Iterable[str]) -> Iterator[Ask]:
    """One for each of the kinds, which are names in `KINDS`."""
    random = Random(f"{seed} asks")
    for number, name in enumerate(kinds):
        keyed = random.random() < 0.6
        yield Ask(
            number=number,
            seed=f"seed-{seed}",
            kind_name=name,
            model=KINDS[name].draw(random),
            key=f"key-{seed}-{number}" if keyed else None,
            posts=2 if keyed and random.random() < 0.2 else 1,
            streamed=random.random() < 0.2,
            readers=random.choice((0, 1, 1, 1, 2)),
            late=random.random() < 0.1,
            cancel_after=random.uniform(0, 2) if random.random() < 0.12 else None,
            again=random.random() < 0.4,
        )
