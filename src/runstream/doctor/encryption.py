"""Is all that is encrypted to be read, and encrypted with what it should be?"""

from collections.abc import Sequence

from runstream.connections import master_keys
from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import RunstreamError
from runstream.settings import Settings
from runstream.storage.command import opened
from runstream.storage.required_keys import missing, uses

_PART = "encryption"


async def check_encryption(settings: Settings) -> Sequence[Finding]:
    """Nothing without a database, or with keys that cannot be used: others say so."""
    try:
        masters = master_keys(settings)
        async with opened(settings.sweep_login, settings.database_timeout) as engine:
            used = await uses(engine)
    except RunstreamError:
        return []
    if sentence := missing(used, masters):
        return [Finding(Mark.PROBLEM, _PART, sentence)]
    if masters is None:
        return [Finding(Mark.OK, _PART, "Content is not encrypted.")]
    older = sum(use.data_keys for use in used if use.master != masters.used)
    if older:
        text = f"{older} data keys are wrapped by an older master key: run 'runstream encryption rotate'."
        return [Finding(Mark.ADVICE, _PART, text)]
    return [Finding(Mark.OK, _PART, f"Content is encrypted with {masters.used}.")]
