"""What the providers of all protocols have in common: an account at a server, and dialects of what it is asked."""

from collections.abc import Callable, Mapping
from typing import ClassVar, TypedDict, Unpack

from runstream.providers.account import Account
from runstream.providers.base import ProviderConfig


class Options(TypedDict, total=False):
    """What a test may want otherwise; see `Account`."""

    now: Callable[[], float]
    max_event_bytes: int


class HttpProvider:
    """A `Provider` but for its `stream`."""

    example: ClassVar[str] = "https://api.openai.com/v1"
    """A base URL, for those who gave none that is one."""
    listed: ClassVar[int | None] = None
    """The longest page of models that the server gives, where it gives pages."""

    def __init__(self, config: ProviderConfig, **options: Unpack[Options]) -> None:
        """Raises `ConfigurationError`."""
        self.name = config.name
        self._account = Account(config, authorized=self.authorized, example=self.example, **options)
        self.keys = self._account.keys

    @staticmethod
    def authorized(key: str) -> Mapping[str, str]:
        """The headers that carry a key, which is empty where there is none."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def models(self) -> list[str]:
        return await self._account.models(self.listed)

    async def aclose(self) -> None:
        await self._account.aclose()
