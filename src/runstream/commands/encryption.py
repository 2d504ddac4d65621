"""What the encryption commands do."""

from collections.abc import AsyncIterator

from runstream.connections import master_keys
from runstream.crash_points import arm
from runstream.domain.errors import ConfigurationError
from runstream.logs import configure
from runstream.sealing.master_keys import MasterKeys
from runstream.settings import Settings, load
from runstream.storage.command import opened
from runstream.storage.required_keys import missing, require, uses
from runstream.storage.resealing import Resealed, Resealing, pending, rewrap

_EVERY = 1000
"""Rows from one sentence on how far it is to the next."""


async def status(*, content: bool) -> AsyncIterator[str]:
    """A line for each master key; with `content`, of how many rows some is not encrypted with the newest data key."""
    settings = load()
    masters = master_keys(settings)
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        used = await uses(engine)
        given = masters.ids if masters else ()
        wrapped = {use.master: use.data_keys for use in used}
        yield f"Content is encrypted with {masters.used}." if masters else "Content is not encrypted."
        for master in dict.fromkeys([*given, *wrapped]):
            line = f"{master}  wraps {wrapped.get(master, 0)} data keys"
            yield line if master in given else f"{line}, and is not given"
        if content:
            for table, rows in (await pending(engine)).items():
                yield f"{table}: {rows} rows to be encrypted"
    if sentence := missing(used, masters):
        raise ConfigurationError(sentence)


async def rotate(*, content: bool) -> AsyncIterator[str]:
    """Wrap all data keys by the first master key; with `content`, encrypt all content with new data keys.

    What was interrupted goes on. Raises ConfigurationError where there are no keys, or one that is needed is missing.
    """
    settings, masters = _given()
    configure(level="error", form="text")
    arm(settings.crash_at)
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        await require(engine, masters)
        yield f"{await rewrap(engine, masters)} data keys are wrapped anew, by {masters.used}."
        if not content:
            return
        resealing = Resealing(engine, masters)
        yield f"{await resealing.new_keys()} tenants have a new data key."
        told, done = 0, Resealed()
        async for done in resealing.content():
            if done.rows >= told + _EVERY:
                told = done.rows
                yield f"{done.rows} rows so far."
    for sentence in _came_to(done):
        yield sentence
    if done.unreadable:
        raise ConfigurationError(f"{done.unreadable} rows cannot be opened, and stay as they are.")


def _given() -> tuple[Settings, MasterKeys]:
    settings = load()
    masters = master_keys(settings)
    if masters is None:
        raise ConfigurationError("There is no key to encrypt with: set RUNSTREAM_ENCRYPTION_KEYS.")
    return settings, masters


def _came_to(done: Resealed) -> list[str]:
    said = [f"{done.rows} rows are encrypted anew, and {done.dropped} older data keys dropped."]
    if done.busy:
        said.append("Rows are being written that are not encrypted: set the keys for all processes, and run it again.")
    if done.again is not None:
        said.append(
            f"{done.kept} tenants have older data keys still: run it again after {done.again:%Y-%m-%d %H:%M:%S %Z}."
        )
    return said
