"""What the simulator says to a model's name that it does not know: for people who look at it."""

import re

PER_SECOND = 40.0

_QUOTED = 160

_ANSWER = """\
{opening}

No model wrote this. It comes from the simulated provider that answers when no real one is configured: a small \
HTTP server that speaks the same streaming protocol as the real ones, forty words a second, free of charge. \
Everything between it and your screen is the real thing. Your request became a row in Postgres before you were \
told that it was accepted; a worker picked it up within milliseconds; and each word was written to a log before \
it was sent to you. Most of what follows comes from that order, and you can test it while this text is arriving.

Refresh the page. The words you have already seen come back at once and the rest goes on behind them, with \
nothing missing and nothing twice. Open the same run in a second tab, or on your phone: both read the same \
transcript, each from its own place. Switch the network off for a few seconds and on again. Nothing here minded \
that you were gone, because the generation never belonged to your connection in the first place.

Now something rougher. Find the worker's process and kill it with signal 9, the one that leaves no time for a \
goodbye. Within seconds the next worker sees that the lease has lapsed and takes the run up again. What you were \
reading is then withdrawn and begun anew, and the stream says so, because a text that quietly changes under its \
reader is worse than one that admits it started over. You may even empty Redis: what matters is in Postgres, and \
the log is put back from there.

When you have seen enough, press stop. The call to the provider is closed within the second, and what was written \
so far is kept, with the count of what it cost. Then put a real provider's address and key in \
RUNSTREAM_PROVIDERS, and the same page will stream from it instead. Nothing else has to change."""


def answer(prompt: str) -> list[str]:
    """The answer's tokens: a word with the white space after it."""
    return re.findall(r"\s*\S+\s*", _ANSWER.format(opening=_opening(" ".join(prompt.split()))))


def _opening(prompt: str) -> str:
    if not prompt:
        return "You asked nothing, which is a fair way to begin. Here is what you are looking at."
    quoted = prompt if len(prompt) <= _QUOTED else prompt[:_QUOTED].rstrip() + "…"
    return f"You wrote: “{quoted}” A fine thing to ask, and I am sorry that I cannot help with it."
