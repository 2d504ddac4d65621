"""Redis does not answer: what is counted there is done without."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError


class Away(Exception):
    """Redis does not answer, or does not take it: what was asked may have been done."""


@contextmanager
def answering() -> Iterator[None]:
    """Raises Away for whatever a call to Redis raises."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Away(type(error).__name__) from error
