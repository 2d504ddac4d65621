"""The tokens a script sends: each source gives the i-th token without knowing the ones before it."""

import time

_SCRIPTS = (
    "plain ",
    "naïve ",
    "日本語",
    "e\u0301 ",  # a letter and its combining accent
    "🙂",
    "👩\u200d👩\u200d👧 ",  # one family of five code points
    "שלום ",
    "مرحبا ",
    "🇪🇺",
    "𝒳\n",  # beyond the basic plane
    'quote" \\ slash ',
    "\u2028",
)


def word(index: int) -> str:
    return f"w{index} "


def clock(index: int) -> str:
    return f"{time.monotonic_ns() // 1000} "


def unicode_token(index: int) -> str:
    return _SCRIPTS[index % len(_SCRIPTS)]
