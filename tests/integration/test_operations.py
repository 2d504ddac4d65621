"""What those who run the service are told."""

from __future__ import annotations

import re

import httpx
import pytest

from caller import DEADLINE, Caller, words
from runstream.embedded.port import free_port
from stack import PROVIDER_KEY
from waiting import until

SECRET = "the-prompt-that-nobody-may-read"


def ask(url, path):
    return httpx.get(url + path, timeout=DEADLINE)


def test_a_process_that_serves_says_that_it_is_ready(stack):
    answer = ask(stack.url, "/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "redis": "ok"}},
    )
    assert ask(stack.url, "/healthz").json() == {"status": "ok"}


def test_missing_migrations_and_a_missing_redis_are_each_named(stack, empty_database_url):
    api = stack.launch_api(database_url=empty_database_url, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    try:
        answer = ask(api.url, "/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "not ready"
        checks = answer.json()["checks"]
        assert re.fullmatch(r"migration \w+ is missing: run 'runstream migrate'", checks["database"])
        assert checks["redis"] == "does not answer"
        assert ask(api.url, "/healthz").status_code == 200
        assert ask(api.url, "/metrics").status_code == 200
    finally:
        stack.kill(api)


async def test_a_missing_database_is_named_and_requests_are_told_to_come_again(stack, caller):
    api = stack.launch_api(database_url=f"postgresql://runstream:secret-word@127.0.0.1:{free_port()}/nowhere")
    try:
        answer = ask(api.url, "/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"database": "does not answer", "redis": "ok"}
        async with caller.at(api.url) as elsewhere:
            refused = [await elsewhere.post(), await elsewhere.http.get("/v1/runs")]
        for each in refused:
            assert each.status_code == 503
            assert each.json()["error"]["code"] == "unavailable"
            assert int(each.headers["retry-after"]) >= 1
        assert "secret-word" not in answer.text + "".join(each.text for each in refused) + api.output()
    finally:
        stack.kill(api)


@pytest.mark.promise("P1")
async def test_a_redis_that_goes_away_is_named_and_costs_no_run(make_stack):
    stack = make_stack()
    async with Caller.of(stack, "acme", "ada") as caller:
        stack.valkey.kill()
        await until(lambda: ask(stack.url, "/readyz").status_code == 503)
        assert ask(stack.url, "/readyz").json()["checks"] == {"database": "ok", "redis": "does not answer"}
        run_id = await caller.create("sim:3")
        assert (await caller.get(run_id))["status"] == "queued"
        assert figures(stack.url)["runstream_jobs_not_enqueued_total"] == 1
        stack.valkey.start()
        await until(lambda: ask(stack.url, "/readyz").status_code == 200)
        assert (await caller.ended(run_id))["output"] == {"text": words(3)}


async def test_the_figures_move_with_what_happens(stack, caller):
    port = free_port()
    worker = stack.start_worker(queue="metered", worker_metrics_port=port)
    api = stack.start_api(queue="metered")
    try:
        async with caller.at(api.url) as metered:
            run_id = await metered.create("sim:4:50")
            events = await metered.events(run_id)
            await metered.cancel(await metered.create("hang:1"))
            async for _ in metered.follow(hanging := await metered.create("hang:1")):
                reading = figures(api.url)
                break
            await until(lambda: figures(api.url)["runstream_readers"] == 0)
            await until(lambda: figures(f"http://127.0.0.1:{port}")["runstream_running"] == 1)
            working = figures(f"http://127.0.0.1:{port}")
            await metered.cancel(hanging)
        after = figures(api.url)
    finally:
        stack.kill(api)
        stack.kill(worker)

    assert after['runstream_runs_accepted_total{feature="chat"}'] == 3
    assert after["runstream_events_relayed_total"] >= len(events)
    assert after["runstream_buffers_dropped_total"] == 0
    assert reading["runstream_readers"] == 1
    assert reading['runstream_runs{status="running"}'] >= 1
    assert reading['runstream_queue_depth{queue="metered"}'] >= 1
    assert 'runstream_runs{status="queued"}' in after
    assert working['runstream_runs_ended_total{status="completed"}'] == 1
    assert working["runstream_events_appended_total"] >= len(events)
    assert working["runstream_queue_wait_seconds_count"] >= 2
    assert 0 < working["runstream_first_token_seconds_sum"] < DEADLINE


def figures(url):
    """Each series of `/metrics`, with its value."""
    answer = ask(url, "/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_no_log_holds_a_key_or_a_prompt_whatever_goes_wrong(caller, stack):
    private = {"metadata": {"note": SECRET}, "subject": {"type": "secret", "id": SECRET}}
    for model in ("sim:2", "status:400", "status:500", "error:1", "cut:2", "malformed:1"):
        await caller.ended(await caller.create(model, prompt=SECRET, **private))
    refused = [
        await caller.post(SECRET, prompt=SECRET),
        await caller.post(prompt=SECRET + "\0"),
        await caller.http.post("/v1/runs", content=SECRET, headers={"Content-Type": "application/json"}),
        await caller.http.post("/v1/runs", json={SECRET: SECRET}),
        await caller.http.get("/v1/runs", params={"user": SECRET + "\0", "status": SECRET, "cursor": caller.key}),
        await caller.http.get("/v1/runs", headers={"Authorization": f"Bearer {caller.key}{SECRET}"}),
    ]
    assert {answer.status_code for answer in refused} <= {400, 401, 422}
    for name, output in stack.outputs().items():
        for secret in (caller.key, SECRET, PROVIDER_KEY, "Traceback"):
            assert secret not in output, f"{name} tells {secret}"
    for answer in refused:
        assert caller.key not in answer.text
        assert SECRET not in answer.text.replace(f'"param":"{SECRET}"', "").replace(f"{SECRET}: Extra", "")


async def test_a_request_is_logged_with_what_finds_it_again(caller, stack):
    run_id = await caller.create("sim:1")
    await caller.http.get(f"/v1/runs/{run_id}", headers={"X-Request-Id": f"mine-{run_id}"})
    await caller.ended(run_id)
    outputs = stack.outputs()
    (request,) = [line for line in outputs["api-1"].splitlines() if f"mine-{run_id}" in line]
    assert '"status": 200' in request
    (ended,) = [line for line in outputs["worker-1"].splitlines() if run_id in line and "run_ended" in line]
    assert caller.tenant in ended
    assert '"attempt": 1' in ended


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/openapi.json", "/v1/runs", "/v1/runs/run_x", "/nowhere"])
async def test_no_answer_is_kept_by_a_cache_or_taken_for_what_it_is_not(caller, path):
    for headers in (None, {"Authorization": ""}):
        answer = await caller.http.get(path, headers=headers)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
