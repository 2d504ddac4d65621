"""A real Postgres and a real Valkey from PyPI wheels, for `runstream dev` and for tests: no installing."""

from runstream.embedded.errors import EmbeddedError
from runstream.embedded.postgres import Postgres
from runstream.embedded.valkey import Valkey

__all__ = ["EmbeddedError", "Postgres", "Valkey"]
