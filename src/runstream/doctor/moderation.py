"""Does whoever is to judge texts do so?"""

from collections.abc import Sequence
from contextlib import aclosing

from runstream.connections import moderations
from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import ProviderError
from runstream.settings import ModerationSettings

_PART = "moderation"


async def check_moderation(given: ModerationSettings) -> Sequence[Finding]:
    """Has one word judged, which costs nothing at OpenAI. Raises ConfigurationError, TimeoutError."""
    async with aclosing(moderations(given)) as server:
        try:
            await server.categories(["Hello"], connect=given.timeout)
        except ProviderError as error:
            text = f"It does not judge ({error.message.rstrip('.')}): check base_url, api_keys and model."
            return [Finding(Mark.PROBLEM, _PART, text)]
    return [Finding(Mark.OK, _PART, "It answers, and accepts its key.")]
