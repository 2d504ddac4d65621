"""A moderated answer is shown sentence by sentence, each once it was found clean; what is not clean, nobody sees."""

from __future__ import annotations

import asyncio

import pytest

from in_process import TENANT, InProcessWorker, working
from runstream.domain.events import Event
from runstream.domain.run import Run
from runstream.domain.usage import Usage
from waiting import until


def text_of(events: list[Event]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "run.delta")


def sentences(first: int, after: int) -> str:
    return "".join(f"This is s{number}. " for number in range(first, after))


async def stopped_at(worker: InProcessWorker, run: Run, events: list[Event], shown: str) -> None:
    """It failed for `violence` after what was shown, and what it had cost is in the ledger."""
    assert (run.status, run.attempt, run.flagged) == ("failed", 1, True)
    assert run.error == {
        "code": "content_blocked",
        "message": "What the model said was refused: violence.",
        "categories": ["violence"],
    }
    assert run.findings == [{"name": "violence", "action": "refuse", "where": "output", "messages": []}]
    assert text_of(events) == (run.output or "") == shown
    assert events[-1].data == {"error": run.error, "partial": bool(shown)}
    (line,) = await worker.ledger(run.id)
    assert run.usage is not None
    assert (line["output_tokens"], line["estimated"]) == (run.usage.output_tokens, run.usage.estimated)


async def test_sentences_before_one_that_is_not_clean_are_shown_and_nothing_of_it_or_after_it(
    database_url: str, redis_url: str
) -> None:
    async with working(database_url, redis_url, moderation="flags:s3") as worker:
        run, events = await worker.run("Hello", model="sentences:8:200", attempts=3)
        await stopped_at(worker, run, events, sentences(0, 3))
        at_once, events = await worker.run("Hello", model="sentences:8")
        await stopped_at(worker, at_once, events, sentences(0, 3))
        assert at_once.usage is not None
        assert (at_once.usage.output_tokens, at_once.usage.estimated) == (24, False)
        clean, events = await worker.run("Hello", model="sentences:3:200")
        assert (clean.status, clean.flagged, clean.findings) == ("completed", False, None)
        assert text_of(events) == clean.output == sentences(0, 3)
        assert clean.usage == Usage(1, 9)


async def test_the_call_of_an_answer_that_is_not_clean_is_closed_at_once(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, moderation="flags:s1", input=False) as worker:
        run, events = await worker.run("Hello", model="sentences:100000:200")
        await stopped_at(worker, run, events, sentences(0, 1))
        await until(lambda: worker.simulator.stats()["closed_by_client"] == 1)
        (call,) = worker.simulator.record.told()["calls"]
        assert call["tokens"] < 1000
        assert run.usage is not None
        assert run.usage.estimated
        said = run.usage.output_tokens * 4
        assert len(sentences(0, 2)) <= said + 4, "what was said and not shown is paid for too"


async def test_sentences_that_come_while_others_are_judged_are_judged_together(
    database_url: str, redis_url: str
) -> None:
    async with working(database_url, redis_url, moderation="flags:never:300", input=False) as worker:
        run, _ = await worker.run("Hello", model="sentences:60:300")
        assert run.output == sentences(0, 60)
        judged = [text for texts in worker.judged for text in texts]
        assert judged == [f"This is s{number}. " for number in range(60)]
        assert len(worker.judged) < 20
        assert max(len(texts) for texts in worker.judged) <= 32


async def test_a_sentence_is_shown_before_the_answer_ends(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, moderation="flags:never") as worker:
        run_id = await worker.create("Hello", model="sentences:100000:100")
        running = asyncio.create_task(worker.execute(TENANT, run_id))
        async with asyncio.timeout(30):
            while not text_of(await worker.events(run_id)).startswith(sentences(0, 2)):
                await asyncio.sleep(0.02)
        worker.execute.cancel(run_id)
        await running
        run = await worker.get(run_id)
        assert (run.status, run.flagged) == ("cancelled", False)
        assert run.output == text_of(await worker.events(run_id))
        assert run.output.endswith(". ")


@pytest.mark.parametrize(
    ("model", "flags", "reasoning", "text"),
    [
        ("reasoning:300:5", "r150", True, ""),
        ("reasoning:5:300", "w150", True, "w0"),
        ("reasoning:5:5", "never", True, "w0 w1 w2 w3 w4 "),
    ],
)
async def test_reasoning_is_judged_as_text_is(
    database_url: str, redis_url: str, model: str, flags: str, reasoning: bool, text: str
) -> None:
    async with working(database_url, redis_url, moderation=f"flags:{flags}", input=False) as worker:
        run, events = await worker.run("Hello", model=model)
        assert (run.status == "failed") == (flags != "never")
        assert (run.output or "").startswith(text)
        assert (run.reasoning or "").startswith("r0") == reasoning
        assert f"{flags} " not in repr(events[1:])


@pytest.mark.parametrize("flags", ["w40", "write_down"])
async def test_names_and_arguments_of_tool_calls_are_judged_before_they_are_shown(
    database_url: str, redis_url: str, flags: str
) -> None:
    async with working(database_url, redis_url, moderation=f"flags:{flags}", input=False) as worker:
        run, events = await worker.run("Hello", model="tools:60:2")
        assert run.error is not None
        assert run.error["code"] == "content_blocked"
        assert run.output == "w0 w1 "
        assert flags not in repr(events[1:])
    async with working(database_url, redis_url, moderation="flags:never", input=False) as worker:
        moderated, events = await worker.run("Hello", model="tools:60:2")
    async with working(database_url, redis_url) as worker:
        plain, _ = await worker.run("Hello", model="tools:60:2")
        assert (moderated.output, moderated.tool_calls) == (plain.output, plain.tool_calls)


@pytest.mark.parametrize("moderation", ["status:500", "malformed", "hang"])
async def test_an_answer_that_cannot_be_judged_is_refused_unless_the_feature_says_otherwise(
    database_url: str, redis_url: str, moderation: str
) -> None:
    async with working(database_url, redis_url, moderation=moderation, timeout=0.4, input=False) as worker:
        run, events = await worker.run("Hello", model="sentences:3")
        assert run.error is not None
        assert (run.error["code"], run.error["categories"]) == ("content_blocked", ["moderation_unavailable"])
        assert text_of(events) == ""
        lenient, events = await worker.run("Hello", model="sentences:3", feature="lets_pass")
        assert (lenient.status, lenient.flagged, text_of(events)) == ("completed", True, sentences(0, 3))
        assert lenient.findings == [
            {"name": "moderation_unavailable", "action": "flag", "where": "output", "messages": []}
        ]


async def test_what_came_of_an_answer_that_broke_off_is_judged_and_kept(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, moderation="flags:w9", input=False) as worker:
        run, events = await worker.run("Hello", model="cut:7")
        assert run.error is not None
        assert (run.error["code"], run.output, run.flagged) == (
            "provider_protocol_error",
            "w0 w1 w2 w3 w4 w5 w6 ",
            False,
        )
        blocked, events = await worker.run("Hello", model="cut:12", attempts=3)
        assert blocked.error is not None
        assert (blocked.error["code"], blocked.attempt, text_of(events)) == ("content_blocked", 1, "")


async def test_an_answer_is_not_moderated_where_that_is_off(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, moderation="flags:s1", output=False) as worker:
        run, _ = await worker.run("Hello", model="sentences:2")
        assert (run.status, run.output) == ("completed", sentences(0, 2))
        assert worker.judged == [["Hello"]]
