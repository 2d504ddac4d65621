"""What gives runs their answers, in the test's own process."""

from __future__ import annotations

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.answers.board import Board
from runstream.gateway.cache import Keeping
from runstream.gateway.generate import Gateway
from runstream.runs.sharing.answers import Answers
from runstream.runs.sharing.calls import SharedCalls
from runstream.storage.answers import AnswerStore
from runstream.stream.log import TokenLog
from runstream.stream.writer import WriteLoop


def answers_of(
    redis: Redis, engine: AsyncEngine, gateway: Gateway, token_log: TokenLog, write_loop: WriteLoop
) -> Answers:
    board = Board(redis, "worker", lease=3, timeout=1)
    store = AnswerStore(engine)
    calls = SharedCalls(
        board=board,
        store=store,
        token_log=token_log,
        write_loop=write_loop,
        gateway=gateway,
    )
    return Answers(board, store, calls, gateway, Keeping(60, 50))
