"""What an attempt took of its provider, as the ledger is to have it."""

from runstream.domain.run import Generation
from runstream.domain.usage import ProviderCall, Usage, estimate
from runstream.gateway.generate import Gateway
from runstream.runs.attempt import Attempt


def metered(attempt: Attempt, gateway: Gateway) -> Generation:
    """What it came to; its usage estimated where the provider may have worked and did not say how much."""
    if attempt.given is not None:
        return attempt.given.generation(attempt.first_token_at)
    usage = _usage(attempt)
    calls = calls_of(attempt, gateway, usage)
    owed = attempt.claim.resume and attempt.claim.resume.owed
    if owed and (attempt.begun_anew or not calls):
        calls[:1] = [owed]
    target = attempt.tried[-1] if attempt.tried else None
    return Generation(
        provider=target.provider if target else None,
        provider_model=target.model if target else None,
        provider_request_id=attempt.request_id,
        usage=usage,
        first_token_at=attempt.first_token_at,
        calls=calls,
        goes_on=attempt.answer if attempt.kept else None,
    )


def calls_of(attempt: Attempt, gateway: Gateway, usage: Usage | None) -> list[ProviderCall]:
    """Each call that was made, in turn; `usage` is of the last one."""
    read = estimate(attempt.claim.input, 0) if any(attempt.bought[:-1]) else None
    usages = [read if bought else None for bought in attempt.bought[:-1]]
    return gateway.calls(zip(attempt.tried, [*usages, usage], strict=False))


def _usage(attempt: Attempt) -> Usage | None:
    usage = attempt.usage
    if usage is None and attempt.screen and attempt.screen.finished:
        usage = attempt.screen.finished.usage
    if usage is None and (attempt.bought[-1:] == [True] or attempt.answer):
        usage = estimate(attempt.claim.input, attempt.characters)
    owed = attempt.claim.resume and attempt.claim.resume.owed
    if usage and usage.estimated and owed and owed.usage and not attempt.begun_anew:
        usage = max(usage, owed.usage, key=lambda usage: usage.output_tokens)  # of what was read of it, or before
    return usage
