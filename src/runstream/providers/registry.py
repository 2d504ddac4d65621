"""Which code speaks which kind of provider: a new one is a line here."""

from collections.abc import Callable

from runstream.domain.errors import ConfigurationError
from runstream.providers.anthropic_messages import AnthropicMessages
from runstream.providers.base import Provider, ProviderConfig
from runstream.providers.openai_chat import OpenAIChat
from runstream.providers.openai_responses import OpenAIResponses

_KINDS: dict[str, Callable[[ProviderConfig], Provider]] = {
    "anthropic": AnthropicMessages,
    "openai": OpenAIChat,
    "openai-responses": OpenAIResponses,
}
_IN_BACKGROUND = frozenset({"openai-responses"})


def build(config: ProviderConfig) -> Provider:
    """Opens nothing yet. Raises `ConfigurationError`."""
    kind = _KINDS.get(config.kind)
    if kind is None:
        known = ", ".join(sorted(_KINDS))
        raise ConfigurationError(f"The provider '{config.name}' has kind '{config.kind}': give one of {known}.")
    if config.background and config.kind not in _IN_BACKGROUND:
        able = ", ".join(sorted(_IN_BACKGROUND))
        raise ConfigurationError(f"The provider '{config.name}' cannot have background: only kind {able} can.")
    return kind(config)
