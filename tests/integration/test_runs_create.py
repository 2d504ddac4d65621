"""A run is asked for, and looked at."""

from __future__ import annotations

from datetime import datetime

import httpx
import pytest

from caller import TERMINAL, body, sent, text_of, words


async def test_a_run_is_accepted_with_its_address(caller):
    answer = await caller.post("sim:3", subject={"type": "ticket", "id": "933"}, metadata={"team": "blue"})
    assert answer.status_code == 202
    run = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    assert run["status"] in {"queued", "running", "completed"}
    assert run["subject"] == {"type": "ticket", "id": "933"}
    assert run["metadata"] == {"team": "blue"}
    assert (await caller.http.get(answer.headers["location"])).json()["id"] == run["id"]


async def test_an_ended_run_says_what_became_of_it(caller):
    run = await caller.ended(await caller.create("sim:3"))
    assert run["status"] == "completed"
    assert run["output"] == {"text": words(3)}
    assert run["finish_reason"] == "stop"
    assert run["usage"] == {"input_tokens": 1, "output_tokens": 3, "cached_tokens": 0, "estimated": False}
    assert (run["provider"], run["provider_model"], run["model"]) == ("local", "sim:3", "sim:3")
    assert (run["attempt"], run["error"], run["user"]) == (1, None, "ada")
    steps = ["created_at", "started_at", "first_token_at", "finished_at"]
    assert all(datetime.fromisoformat(run[step]).tzinfo for step in steps)


async def test_a_run_without_a_model_gets_the_default_one(caller):
    request = body()
    del request["model"]
    run = await caller.ended((await caller.http.post("/v1/runs", json=request)).json()["id"])
    assert run["model"] == "sim:5"
    assert run["output"] == {"text": words(5)}


async def test_a_provider_that_refuses_fails_the_run_with_its_reason(caller):
    run = await caller.ended(await caller.create("status:400"))
    assert run["status"] == "failed"
    assert run["error"]["code"] == "provider_refused"
    assert run["error"]["message"]
    assert run["output"] == {"text": ""}


async def test_a_failure_after_some_text_keeps_the_text(caller):
    run_id = await caller.create("error:4", metadata={})
    run = await caller.ended(run_id)
    assert run["status"] == "failed"
    assert run["output"] == {"text": words(4)}
    last = (await caller.events(run_id))[-1]
    assert last.type == "run.failed"
    assert last.data == {"error": run["error"], "partial": True}


async def test_a_run_that_is_given_room_for_fewer_tokens_says_that_it_was_cut(caller):
    request = body("sim:10")
    request["input"]["max_output_tokens"] = 4
    run = await caller.ended((await caller.http.post("/v1/runs", json=request)).json()["id"])
    assert (run["output"]["text"], run["finish_reason"]) == (words(4), "length")


@pytest.mark.parametrize("preference", ["wait=20", "respond-async, wait=20", "WAIT = 20;foo"])
async def test_a_request_that_prefers_to_wait_is_answered_the_ended_run(caller, preference):
    answer = await caller.post("sim:3:100", headers={"Prefer": preference})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["output"] == {"text": words(3)}


async def test_a_request_that_waited_in_vain_is_answered_202(unworked):
    answer = await unworked.post(headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"


@pytest.mark.parametrize("preference", ["return=minimal", "wait=x", "wait=-1", "", "wait=0"])
async def test_a_preference_that_says_nothing_of_waiting_is_ignored(unworked, preference):
    answer = await unworked.post(headers={"Prefer": preference})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_a_look_at_a_run_can_wait_for_its_end(caller):
    run_id = await caller.create("sim:20:40")
    run = (await caller.http.get(f"/v1/runs/{run_id}", params={"wait": 20})).json()
    assert run["status"] == "completed"
    assert run["output"] == {"text": words(20)}


async def test_a_look_that_waited_in_vain_shows_the_run_as_it_is(unworked):
    run_id = await unworked.create()
    run = (await unworked.http.get(f"/v1/runs/{run_id}", params={"wait": 0.5})).json()
    assert run["status"] == "queued"
    assert run["finished_at"] is None


async def test_a_request_that_accepts_events_is_answered_the_stream(caller):
    request = caller.http.stream("POST", "/v1/runs", json=body("sim:5"), headers={"Accept": "text/event-stream"})
    async with request as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event async for event in sent(response)]
    assert events[0].type == "run.started"
    assert response.headers["location"] == f"/v1/runs/{events[0].data['run_id']}"
    assert text_of(events) == words(5)
    assert events[-1].type == "run.completed"


async def test_a_new_run_s_stream_begins_at_its_beginning_whatever_cursor_is_sent_along(caller):
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1-3", "Idempotency-Key": "k"}
    async with caller.http.stream("POST", "/v1/runs", json=body("sim:5"), headers=headers) as response:
        events = [event async for event in sent(response)]
    assert text_of(events) == words(5)
    again = await caller.http.post("/v1/runs", json=body("sim:5"), headers=headers | {"Last-Event-ID": events[-1].id})
    assert again.status_code == 204


async def test_events_are_the_runs_whole_transcript(caller):
    run_id = await caller.create("sim:30:200")
    events = await caller.events(run_id)
    assert [event.type for event in events if event.type != "run.delta"] == ["run.started", "run.completed"]
    assert events[0].data == {"run_id": run_id, "attempt": 1, "model": "sim:30:200"}
    assert text_of(events) == words(30)
    assert events[-1].data == {
        "status": "completed",
        "finish_reason": "stop",
        "usage": {"input_tokens": 1, "output_tokens": 30, "cached_tokens": 0, "estimated": False},
        "cost": None,
    }
    assert len({event.id for event in events}) == len(events)
    assert events[-1].type in TERMINAL


async def test_the_stream_is_not_to_be_kept_by_anybody_between(caller):
    run_id = await caller.create()
    await caller.ended(run_id)
    answer = await caller.http.get(f"/v1/runs/{run_id}/events")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("asked", ["given-by-me.7", "x" * 64])
async def test_the_requests_id_is_the_callers_where_it_gives_one(caller, asked):
    answer = await caller.http.get("/v1/runs", headers={"X-Request-Id": asked})
    assert answer.headers["x-request-id"] == asked


async def test_every_answer_names_its_request(caller, stack):
    async with httpx.AsyncClient(base_url=stack.url) as stranger:
        answers = [
            await caller.http.get("/v1/runs", headers={"X-Request-Id": "no spaces please"}),
            await stranger.get("/v1/runs"),
            await stranger.get("/healthz"),
            await stranger.get("/nothing/here"),
        ]
    names = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(names)) == len(names)
    assert all(name.startswith("req_") for name in names)
    assert answers[1].json()["error"]["request_id"] == names[1]
