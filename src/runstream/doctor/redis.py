"""Can Redis be used, and what becomes of its data?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from runstream.connections import redis_client
from runstream.doctor.finding import Finding, Mark
from runstream.domain.ids import new_id
from runstream.settings import Settings
from runstream.stream.log import key

_PART = "redis"
_OLDEST = (6, 2)
_TRIAL = """
redis.call('XADD', KEYS[1], '1-1', 'e', 'x')
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('PUBLISH', KEYS[1], 'x')
return redis.call('DEL', KEYS[1])
"""
"""What the token log does, in one script, and away with it."""


async def check_redis(settings: Settings) -> Sequence[Finding]:
    """Raises ConfigurationError."""
    async with aclosing(redis_client(settings)) as redis:
        try:
            info: Mapping[str, Any] = await redis.info()
            script = await _script(redis)
        except (RedisError, OSError, TimeoutError) as error:
            text = f"It cannot be used ({_reason(error)}): check RUNSTREAM_REDIS_URL."
            return [Finding(Mark.PROBLEM, _PART, text)]
    problems = [*_unfit(info), *([script] if script else [])]
    if problems:
        return [Finding(Mark.PROBLEM, _PART, problem) for problem in problems]
    ok = Finding(Mark.OK, _PART, f"{_name(info)} answers and runs scripts. {_persistence(info)}")
    return [ok, *(Finding(Mark.ADVICE, _PART, advice) for advice in _advice(info))]


async def _script(redis: Redis) -> str | None:
    try:
        await redis.register_script(_TRIAL)([key(new_id("doctor"))])
    except ResponseError as error:
        return f"It does not run the token log's script ({_first_line(error)}): give this user @scripting and the rest."
    return None


def _unfit(info: Mapping[str, Any]) -> Iterator[str]:
    if _version(info) < _OLDEST:
        yield f"{_name(info)} is too old: use {'.'.join(map(str, _OLDEST))} or later."
    if info.get("cluster_enabled"):
        yield "It is a cluster, which the queue cannot use: give RUNSTREAM_REDIS_URL a Redis that is none."


def _advice(info: Mapping[str, Any]) -> Iterator[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}, so a full memory costs runs under way: set it to noeviction."
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield "It could not write its data to disk the last time: see its log."


def _persistence(info: Mapping[str, Any]) -> str:
    """What a restart of Redis would cost. No run: Postgres has those; tokens of runs under way are sent anew."""
    return "Persistence: append-only file." if info.get("aof_enabled") else "Persistence: no append-only file."


def _version(info: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])


def _name(info: Mapping[str, Any]) -> str:
    valkey = info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"


def _reason(error: Exception) -> str:
    """Why it did not answer, without an address' user and password."""
    if isinstance(error, AuthenticationError):
        return "it does not accept the password"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return _first_line(error) or type(error).__name__


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
