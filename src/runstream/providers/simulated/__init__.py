"""A provider that costs nothing: every protocol that we speak, over real HTTP, at a set pace, failing on demand.

The model's name says what happens. N is a number of tokens, RATE tokens per second (0, the default: as fast as
the socket takes them).

    sim:N[:RATE[:FIRST_MS]]    words w0 w1 w2 ..., the first after FIRST_MS
    clock:N[:RATE[:FIRST_MS]]  each token is the sender's monotonic clock in microseconds, to tell its age
    unicode:N[:RATE]           emojis, combining characters, right-to-left text
    reasoning:R[:N[:RATE]]     R tokens of reasoning r0 r1 r2 ..., then N of text (default 10)
    tools:W[:N[:RATE]]         N tokens of text (default none), then two tool calls in turn, look_up and write_down,
                               each with the arguments {"text":"w0 w1 ..."} of W words, a piece for each
    big:BYTES                  one token of that size
    cut:N[:RATE]               closes the connection after N tokens
    hang:N[:RATE]              says nothing after N tokens and keeps the connection open
    error:N[:RATE]             an error object in the stream after N tokens
    malformed:N[:RATE]         a chunk that is not JSON after N tokens
    sentences:N[:RATE]         N sentences of three tokens: "This is s0. This is s1. " ...
    nofinish:N[:RATE]          ends after N tokens without a finish reason
    slow-headers:MS[:N[:RATE]] answers nothing at all for MS, then N tokens (default 10)
    uncounted:N[:RATE]         as sim, and in chat completions without a word of tokens used
    page                       an HTML page under status 200
    status:CODE[:SECONDS]      refuses with that HTTP status, and with Retry-After (none for 0; 1 for 429 and 503)
    flaky:K:N[:RATE]           503 for the first K calls with this model and these messages, then as sim:N:RATE

`tools:4+cut:5`, and the like, does as the first says, and after so many tokens of that as the second.

After any of these names, `@` and anything: that is a model of its own, whose words say by their call's number which
answer they are of: w0@17 w1@17 ...

For moderation, too, the model's name says what happens; a text with `unsafe:CATEGORY` in it falls under that category.

    flags:WORD,...[:MS]        under `violence` too, where they have one of the words; each answer takes MS
    hang    malformed    status:CODE    flaky:K    as above

Any other name answers the last message in prose, at 40 tokens per second. `max_tokens`,
`max_completion_tokens`, `stop` (`stop_sequences`), `stream` and `stream_options.include_usage` are honoured. Any key
will do, as a bearer or in `x-api-key`, except `bad` (401), `limited` (429, Retry-After: 1) and `limited-unsaid` (429).

    POST /v1/chat/completions    POST /v1/messages    POST /v1/responses    POST /v1/moderations    GET /v1/models
    GET  /v1/responses/ID        an answer in the background, as it stands, or with ?stream=true&starting_after=N the
                                 rest of it; POST /v1/responses/ID/cancel stops it
    GET  /stats   {"calls": {model: count}, "tokens": {"input", "output"} of those that have ended, "open_streams": now,
                  "closed_by_client": before their end, "moderations": count, "connections": accepted,
                  "open_connections": now}; needs no key
    GET  /calls   {"made": count, "calls": [{"number", "model", "asked": the last message's beginning, "key": a hash of
                  it, "began", "ended", "ending", "input_tokens", "tokens": sent}]}, the last 50,000 in order; needs no
                  key
    POST /reset   forgets the counts and the calls, flaky's too, and answers in the background
"""

from runstream.providers.simulated.server import Simulator, serve
from runstream.providers.simulated.tokens import CALLED, call_id, unicode_token, word

__all__ = ["CALLED", "Simulator", "call_id", "serve", "unicode_token", "word"]
