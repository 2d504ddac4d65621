"""Can each identity provider's keys be read, and can tokens be verified with them?"""

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

from runstream.connections import published_keys
from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import ProviderError
from runstream.settings import JwtSettings

_PART = "issuer"
_LOCAL = ("localhost", "127.0.0.1", "::1")


async def check_issuer(given: JwtSettings) -> Sequence[Finding]:
    """Asks for its keys, where it publishes some."""
    keys = published_keys(given)
    if keys is None:
        return [Finding(Mark.OK, _PART, f"{given.issuer} shares a secret with us.")]
    async with aclosing(keys):
        try:
            await keys.read()
        except ProviderError as error:
            text = f"The keys of {given.issuer} cannot be used: {error.message.rstrip('.')}: check its jwks_url."
            return [Finding(Mark.PROBLEM, _PART, text)]
    counted = ", ".join(f"{algorithm} ({number})" for algorithm, number in Counter(keys.algorithms).items())
    findings = [Finding(Mark.OK, _PART, f"{given.issuer} publishes keys for {counted}.")]
    url = urlsplit(given.jwks_url or "")
    if url.scheme == "http" and url.hostname not in _LOCAL:
        text = f"The keys of {given.issuer} come without TLS, so that others may put theirs there: use https://."
        findings.append(Finding(Mark.ADVICE, _PART, text))
    return findings
