"""Which code speaks which kind of provider: a new one is a line here."""

from collections.abc import Callable

from runstream.domain.errors import ConfigurationError
from runstream.providers.anthropic_messages import AnthropicMessages
from runstream.providers.base import Provider, ProviderConfig
from runstream.providers.openai_chat import OpenAIChat

_KINDS: dict[str, Callable[[ProviderConfig], Provider]] = {
    "anthropic": AnthropicMessages,
    "openai": OpenAIChat,
}


def build(config: ProviderConfig) -> Provider:
    """Opens nothing yet. Raises `ConfigurationError`."""
    kind = _KINDS.get(config.kind)
    if kind is None:
        known = ", ".join(sorted(_KINDS))
        raise ConfigurationError(f"The provider '{config.name}' has kind '{config.kind}': give one of {known}.")
    return kind(config)
