"""A request that is sent again makes no second run."""

from __future__ import annotations

import asyncio

import pytest

from caller import Caller, body, own_model, sent, text_of, words

pytestmark = pytest.mark.promise("P4")


async def test_the_same_key_with_the_same_body_answers_the_same_run(caller, stack):
    model = own_model()
    first = await caller.post(model, headers={"Idempotency-Key": "k1"})
    run_id = first.json()["id"]
    await caller.ended(run_id)
    second = await caller.post(model, headers={"Idempotency-Key": "k1"})
    assert "idempotency-replayed" not in first.headers
    assert second.status_code == 202
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == f"/v1/runs/{run_id}"
    assert second.json()["status"] == "completed"
    assert await caller.list() == [run_id]
    assert stack.provider_stats()["calls"][model] == 1


async def test_the_same_body_written_in_another_order_is_the_same(unworked):
    request = body(metadata={"a": "1", "b": "2"})
    turned = dict(reversed(request.items())) | {"metadata": {"b": "2", "a": "1"}}
    headers = {"Idempotency-Key": "k1"}
    answers = [await unworked.http.post("/v1/runs", json=each, headers=headers) for each in (request, turned)]
    assert len({answer.json()["id"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "other",
    [
        body(prompt="Another"),
        body("sim:6"),
        body(metadata={"k": "v"}),
        body(subject={"type": "ticket", "id": "1"}),
        body(complexity="low"),
    ],
)
async def test_the_same_key_with_another_body_is_refused(unworked, other):
    headers = {"Idempotency-Key": "k1"}
    run_id = (await unworked.post(headers=headers)).json()["id"]
    answer = await unworked.http.post("/v1/runs", json=other, headers=headers)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_conflict"
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert await unworked.list() == [run_id]


async def test_fifty_requests_at_once_make_one_run_and_one_call(caller, stack):
    model = own_model()
    headers = {"Idempotency-Key": "all-at-once"}
    answers = await asyncio.gather(*(caller.post(model, headers=headers) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    (run_id,) = {answer.json()["id"] for answer in answers}
    assert (await caller.ended(run_id))["output"] == {"text": words(5)}
    assert await caller.list() == [run_id]
    assert stack.provider_stats()["calls"][model] == 1


async def test_a_key_is_its_users_alone(unworked, stack):
    headers = {"Idempotency-Key": "k1"}
    url = str(unworked.http.base_url)
    async with (
        Caller.of(stack, unworked.tenant, "bob", url=url) as colleague,
        Caller.of(stack, f"{unworked.tenant}-x", "ada", url=url) as stranger,
    ):
        answers = [await each.post(headers=headers) for each in (unworked, colleague, stranger)]
        assert len({answer.json()["id"] for answer in answers}) == 3
        assert all("idempotency-replayed" not in answer.headers for answer in answers)
        assert (await stranger.post("sim:9", headers=headers)).status_code == 409


async def test_a_second_key_of_the_same_user_asks_for_the_same_run(unworked, stack):
    headers = {"Idempotency-Key": "k1"}
    async with Caller.of(stack, unworked.tenant, "ada", url=str(unworked.http.base_url)) as same:
        assert (await same.post(headers=headers)).json()["id"] == (await unworked.post(headers=headers)).json()["id"]


async def test_a_repeated_request_for_events_reads_the_same_run_from_its_start(caller, stack):
    model = own_model()
    headers = {"Idempotency-Key": "k1", "Accept": "text/event-stream"}
    streams = []
    for _ in range(2):
        async with caller.http.stream("POST", "/v1/runs", json=body(model), headers=headers) as response:
            streams.append([event async for event in sent(response)])
    assert [text_of(stream) for stream in streams] == [words(5)] * 2
    assert streams[0][-1] == streams[1][-1]
    assert stack.provider_stats()["calls"][model] == 1


async def test_a_refused_request_leaves_its_key_free(unworked):
    headers = {"Idempotency-Key": "k1"}
    assert (await unworked.post("no-such-model", headers=headers)).status_code == 422
    assert (await unworked.post(headers=headers)).status_code == 202


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "tab\there", "ü"])
async def test_a_key_that_cannot_be_one_is_refused(unworked, key):
    answer = await unworked.post(headers=[(b"Idempotency-Key", key.encode())])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert await unworked.list() == []
