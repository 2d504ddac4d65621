"""Is the configuration one that a run can be made with?"""

from collections.abc import Iterable, Sequence

from runstream.configuration import contradictions
from runstream.doctor.finding import Finding, Mark
from runstream.settings import Settings

_PART = "configuration"


async def check_configuration(settings: Settings, refused: Sequence[str]) -> Sequence[Finding]:
    """`refused` says which variables could not be read."""
    problems = [*refused, *(contradictions(settings) if not refused else ())]
    if not (settings.models or settings.tenant_models or refused):
        problems = ["No model is configured: set RUNSTREAM_PROVIDERS and RUNSTREAM_MODELS.", *problems]
    if problems:
        return [Finding(Mark.PROBLEM, _PART, problem) for problem in problems]
    findings = [Finding(Mark.OK, _PART, f"Providers: {_list(settings.providers)}. Models: {_list(settings.models)}.")]
    if settings.default_model is None:
        findings.append(
            Finding(Mark.ADVICE, _PART, "Without RUNSTREAM_DEFAULT_MODEL every request has to name a model.")
        )
    return findings


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
