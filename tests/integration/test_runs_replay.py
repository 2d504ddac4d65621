"""What a reader has seen is the run's transcript, wherever it left off."""

from __future__ import annotations

import random

import pytest
import redis

from caller import DEADLINE, Sent, text_of
from runstream.domain.ids import new_id

pytestmark = pytest.mark.promise("P2")


@pytest.fixture
async def transcript(caller) -> tuple[str, list[Sent]]:
    """A run that has ended, with its events as they were read while it went on."""
    run_id = await caller.create("unicode:36:100")
    events = await caller.events(run_id)
    assert events[-1].type == "run.completed"
    assert len([event for event in events if event.type == "run.delta"]) > 5, "nothing was read live"
    return run_id, events


def positions(events):
    """Each event at its place: deltas character by character, with the cursor behind each."""
    found = []
    for event in events:
        attempt, _, end = event.id.partition("-")
        if event.type != "run.delta":
            found.append((event.id, event.type, event.data))
            continue
        text = event.data["text"]
        start = int(end) - len(text)
        found += [(f"{attempt}-{start + n}", "run.delta", letter) for n, letter in enumerate(text, start=1)]
    return found


@pytest.mark.parametrize("emptied", [False, True], ids=["log in Redis", "Redis emptied"])
async def test_every_cursor_after_the_end_gives_the_rest_of_the_live_transcript(caller, stack, transcript, emptied):
    run_id, live = transcript
    if emptied:
        with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
            client.flushall()
    whole = positions(live)
    assert positions(await caller.events(run_id)) == whole
    assert [cursor for cursor, _, _ in whole] == [f"1-{n}" for n in range(1, len(whole) + 1)]
    for seen, (cursor, _, _) in enumerate(whole[:-1], start=1):
        assert positions(await caller.events(run_id, cursor)) == whole[seen:]


async def test_a_cursor_in_the_address_is_taken_and_the_header_goes_before_it(caller, transcript):
    run_id, live = transcript
    path = f"/v1/runs/{run_id}/events"
    in_header = await caller.http.get(path, headers={"Last-Event-ID": live[2].id})
    assert (await caller.http.get(path, params={"after": live[2].id})).text == in_header.text
    both = await caller.http.get(path, params={"after": live[1].id}, headers={"Last-Event-ID": live[2].id})
    assert both.text == in_header.text


async def test_a_reader_that_saw_the_end_is_told_that_there_is_no_more(caller, transcript):
    run_id, live = transcript
    answer = await caller.http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": live[-1].id})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_reader_of_an_older_attempt_is_given_all_of_the_newer_one(caller):
    run_id = await caller.create("flaky:1:6")
    run = await caller.ended(run_id)
    if run["attempt"] == 1:
        pytest.fail("the provider's failure was not answered by another attempt")
    whole = await caller.events(run_id)
    assert whole[0].type == "run.restarted"
    assert await caller.events(run_id, "1-1") == whole
    assert await caller.events(run_id, "1-1000") == whole
    assert text_of(whole) == run["output"]["text"]


async def test_readers_that_come_and_go_while_it_runs_have_the_whole(caller):
    run_id = await caller.create("unicode:120:150")
    seen: list[Sent] = []
    while not seen or seen[-1].type != "run.completed":
        patience = random.randrange(1, 25)
        async for event in caller.follow(run_id, seen[-1].id if seen else None):
            seen.append(event)
            patience -= 1
            if not patience:
                break
    assert positions(seen) == positions(await caller.events(run_id))
    assert text_of(seen) == (await caller.get(run_id))["output"]["text"]


async def test_a_cursor_beyond_the_end_is_refused(caller, transcript):
    run_id, live = transcript
    _, _, end = live[-1].id.partition("-")
    for cursor in (f"1-{int(end) + 1}", "2-0", "2-1", "999999999-999999999999999"):
        answer = await caller.http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": cursor})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_cursor"


async def test_a_cursor_of_an_attempt_to_come_is_refused(unworked):
    run_id = await unworked.create()
    answer = await unworked.http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "1-5"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_cursor"
    assert answer.json()["error"]["param"] == "Last-Event-ID"


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1", "1-1-1", "1.5-2", "1-2 ", "+1-2", "1-0x2", "٣-٤", "9" * 20 + "-1", "1-2\t3"]
)
async def test_a_cursor_that_is_none_is_refused(caller, transcript, cursor):
    run_id, _ = transcript
    answers = [await caller.http.get(f"/v1/runs/{run_id}/events", params={"after": cursor})]
    if cursor == cursor.strip():
        headers = [(b"Last-Event-ID", cursor.encode())]
        answers.append(await caller.http.get(f"/v1/runs/{run_id}/events", headers=headers))
    for answer in answers:
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_cursor"


async def test_a_run_that_is_not_there_has_no_events(caller):
    answer = await caller.http.get(f"/v1/runs/{new_id('run')}/events")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
