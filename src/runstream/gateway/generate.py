"""Make a model call at the first target that answers."""

from collections.abc import AsyncGenerator, Mapping

import structlog

from runstream.domain.errors import ProviderError
from runstream.domain.prompt import Prompt
from runstream.gateway.routes import Routes, Target
from runstream.providers.base import Call, Piece, Provider, TextDelta, Timeouts

log = structlog.get_logger(__name__)


class Gateway:
    def __init__(self, routes: Routes, providers: Mapping[str, Provider], timeouts: Timeouts) -> None:
        self._routes = routes
        self._providers = providers
        self._timeouts = timeouts

    async def generate(self, model: str, prompt: Prompt) -> AsyncGenerator[Target | Piece]:
        """Yield the target, then what it says. Where it fails before its first token, the next one follows.

        Raises the last target's ProviderError; closing the generator closes the call.
        """
        targets = self._routes.targets(model)
        for target in targets:
            generated = False
            try:
                yield target
                async with self._providers[target.provider].stream(
                    Call(target.model, prompt), self._timeouts
                ) as pieces:
                    async for piece in pieces:
                        generated = generated or isinstance(piece, TextDelta)
                        yield piece
            except ProviderError as error:
                if generated or target is targets[-1]:
                    raise
                log.warning("fallback", provider=target.provider, model=target.model, code=error.code)
            else:
                return
