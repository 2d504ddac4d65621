"""What an owner is told of a run's attempts, and what each of them came to."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import pytest

from caller import Caller, words
from runstream.domain.ids import new_id

PROMPT = "Count to a thousand, please"


def estimated(prompt: str, text: str) -> dict[str, int | bool]:
    """Four characters a token, begun ones whole; a message's role is part of the prompt."""
    return {
        "input_tokens": -(-(len(prompt) + len("user")) // 4),
        "output_tokens": -(-len(text) // 4),
        "cached_tokens": 0,
        "estimated": True,
    }


async def attempts(caller, run_id):
    return (await caller.http.get(f"/v1/runs/{run_id}/attempts")).raise_for_status().json()["data"]


async def test_each_attempt_is_told_with_its_outcome_its_reason_and_its_usage(caller):
    run_id = await caller.create("flaky:1:6", prompt=uuid4().hex)
    run = await caller.ended(run_id)
    first, second = await attempts(caller, run_id)
    assert (first["attempt"], first["outcome"], first["usage"]) == (1, "retried", None)
    assert first["error"]["code"] == "provider_unavailable"
    assert first["error"]["message"]
    assert (second["attempt"], second["outcome"], second["error"]) == (2, "completed", None)
    assert second["usage"] == run["usage"]
    assert second["usage"]["estimated"] is False
    for attempt in (first, second):
        assert (attempt["provider"], attempt["provider_model"]) == ("local", "flaky:1:6")
    times = [first["started_at"], first["ended_at"], second["started_at"], second["first_token_at"], second["ended_at"]]
    assert sorted(times, key=datetime.fromisoformat) == times
    assert second["first_token_at"] == run["first_token_at"]


async def test_the_last_attempt_of_a_failed_run_is_told_as_failed_as_the_run_is(caller):
    run_id = await caller.create("status:400")
    run = await caller.ended(run_id)
    (attempt,) = await attempts(caller, run_id)
    assert (attempt["outcome"], attempt["error"], attempt["usage"]) == ("failed", run["error"], None)


async def test_a_running_attempt_is_told_as_running(caller):
    run_id = await caller.create("hang:1")
    async for _ in caller.follow(run_id):
        break
    (attempt,) = await attempts(caller, run_id)
    assert (attempt["outcome"], attempt["ended_at"], attempt["usage"]) == ("running", None, None)
    await caller.cancel(run_id)


async def test_a_run_that_nobody_took_up_has_no_attempt_though_it_ended(unworked):
    run_id = await unworked.create()
    assert await attempts(unworked, run_id) == []
    await unworked.cancel(run_id)
    assert await attempts(unworked, run_id) == []


async def test_a_run_that_is_not_there_has_no_attempts(caller):
    for run_id in (new_id("run"), "nothing"):
        answer = await caller.http.get(f"/v1/runs/{run_id}/attempts")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.promise("P6")
async def test_what_a_cancelled_run_had_said_is_metered(caller):
    run_id = await caller.create("hang:7", prompt=PROMPT)
    text = ""
    async for event in caller.follow(run_id):
        if event.type == "run.delta":
            text += event.data["text"]
            if text == words(7):
                await caller.cancel(run_id)
    run = await caller.ended(run_id)
    assert run["output"] == {"text": text}
    assert run["usage"] == estimated(PROMPT, text)
    (attempt,) = await attempts(caller, run_id)
    assert (attempt["outcome"], attempt["usage"]) == ("cancelled", run["usage"])


async def test_what_each_failed_attempt_had_said_is_metered(caller):
    run_id = await caller.create("cut:9", prompt=PROMPT)
    run = await caller.ended(run_id)
    assert (run["status"], run["usage"]) == ("failed", estimated(PROMPT, words(9)))
    assert [(attempt["outcome"], attempt["usage"]) for attempt in await attempts(caller, run_id)] == [
        *(("retried", run["usage"]), ("retried", run["usage"]), ("failed", run["usage"]))
    ]


async def test_an_image_that_came_as_data_is_not_counted_as_text(caller):
    parts = [
        {"type": "text", "text": PROMPT},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}},
    ]
    run_id = await caller.create("cut:1", input={"messages": [{"role": "user", "content": parts}]})
    assert (await caller.ended(run_id))["usage"]["input_tokens"] < 20


async def test_what_was_cut_at_the_ceiling_is_metered_in_the_run_and_in_its_end(make_stack):
    stack = make_stack(max_output_chars=30)
    async with Caller.of(stack, "acme", "ada") as caller:
        run_id = await caller.create("sim:100", prompt=PROMPT)
        run = await caller.ended(run_id)
        end = (await caller.events(run_id))[-1]
    assert (run["status"], run["finish_reason"]) == ("completed", "max_output_chars")
    assert run["usage"] == end.data["usage"] == estimated(PROMPT, words(100)[:30])
