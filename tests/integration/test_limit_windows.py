"""The counters' windows are those that the rest of the product knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis

from runstream.counters import book
from runstream.domain.limits import Window

DEADLINE = 20


@pytest.mark.parametrize("kind", Window)
def test_redis_and_python_agree_on_each_window(kind: Window, redis_url: str) -> None:
    at = datetime(2023, 12, 30, 23, 58, 30, tzinfo=UTC)
    moments = [at + n * timedelta(hours=7, minutes=13) for n in range(2000)]
    source = f"""{book._script("begin").partition("-- Let one process")[0]}
        local answer = {{}}
        for i = 2, #ARGV do
            local key, after = window(ARGV[1], tonumber(ARGV[i]))
            answer[#answer + 1] = key
            answer[#answer + 1] = after
        end
        return answer
    """
    with redis.Redis.from_url(redis_url, socket_timeout=DEADLINE, decode_responses=True) as client:
        answer = client.eval(source, 1, "t", kind, *(int(moment.timestamp()) for moment in moments))
    for moment, key, after in zip(moments, answer[::2], answer[1::2], strict=True):
        assert key == f"t:{kind}:{int(kind.start(moment).timestamp())}"
        assert after == int(kind.end(moment).timestamp())
