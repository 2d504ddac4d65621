"""The rules that there always are. Patterns are RE2's: https://github.com/google/re2/wiki/Syntax."""

from dataclasses import dataclass

from runstream.gateway.guards.text import FLOOD

_REMOVED = "[removed]"


@dataclass(frozen=True, slots=True)
class Pattern:
    expression: str
    instead: str = _REMOVED
    """What stands where it was taken out. Words leave a trace, so that what stood around them makes no new ones."""
    everywhere: bool = True
    """Otherwise only in what users and tools say: an application may instruct its model as it likes."""


def _injection(expression: str) -> Pattern:
    return Pattern(f"(?i){expression}", everywhere=False)


_BEFORE = "(?:previous|prior|earlier|preceding|foregoing|above|system|developer|initial|original)"
_INSTRUCTIONS = "(?:instructions?|prompts?|rules|directions?|directives?|guidelines?|messages?|commands?)"
_RESTRICTIONS = "(?:restrictions?|rules|limits?|limitations?|filters?|guidelines|censorship)"

BUILTIN: dict[str, Pattern] = {
    "control_characters": Pattern(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]", ""),
    # They show a reader another order than the model reads: https://trojansource.codes.
    "bidi_controls": Pattern(r"[\x{202a}-\x{202e}\x{2066}-\x{2069}]", ""),
    # Joiners, single variation selectors and the few tags of a flag belong to emojis and to scripts.
    "invisible_characters": Pattern(
        r"[\x{200b}\x{2060}-\x{2064}\x{feff}\x{180e}\x{115f}\x{1160}\x{3164}\x{ffa0}\x{fff9}-\x{fffb}]"
        r"|[\x{e0000}-\x{e007f}]{7,}|[\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]{2,}",
        "",
    ),
    "combining_flood": Pattern(FLOOD, ""),
    "prompt_override": _injection(
        rf"\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){{0,4}}{_BEFORE}\s+(?:\w+\s+){{0,2}}{_INSTRUCTIONS}\b"
        rf"|\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){{0,3}}{_INSTRUCTIONS}\s+(?:above|before|given)\b"
    ),
    "prompt_leak": _injection(
        r"\b(?:reveal|show|print|repeat|output|display|leak|recite|tell\s+me|give\s+me|what\s+(?:is|are|was|were))"
        r"\s+(?:\w+\s+){0,4}(?:system|initial|hidden|secret|developer|original)\s+(?:prompts?|messages?|instructions?)\b"
    ),
    "jailbreak": _injection(
        r"\b(?:do\s+anything\s+now|dan\s+mode|developer\s+mode\s+(?:enabled|on)|jailbreak\s+mode)\b"
        rf"|\byou\s+(?:now\s+)?(?:are|have)\s+(?:now\s+)?(?:no|without|free\s+(?:of|from))\s+(?:\w+\s+){{0,2}}{_RESTRICTIONS}\b"
    ),
    # What templates put between the turns of a conversation.
    "forged_turns": _injection(
        r"<\|(?:im_start|im_end|im_sep|system|user|assistant|endoftext|begin_of_text|start_header_id|end_header_id|eot_id)\|>"
        r"|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>"
    ),
    "private_key": Pattern(
        r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|.*)"
    ),
    "aws_credentials": Pattern(
        r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"
        r"|(?i:aws|secret)[A-Za-z_ -]{0,30}[\"']?\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9/+]{40}\b"
    ),
    "google_key": Pattern(r"\bAIza[0-9A-Za-z_-]{35}"),
    "github_token": Pattern(r"\b(?:gh[opsru]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"),
    "gitlab_token": Pattern(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "slack_token": Pattern(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "model_key": Pattern(r"\bsk-(?:[a-z0-9]{1,12}-){0,3}[A-Za-z0-9_-]{20,}"),
    "stripe_key": Pattern(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    "package_token": Pattern(r"\b(?:npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,}|hf_[A-Za-z0-9]{34})"),
    "runstream_key": Pattern(r"\brs_[A-Za-z0-9_-]{43}"),
    "json_web_token": Pattern(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "password_in_url": Pattern(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,100}:[^\s:/@]{3,200}@"),
}
