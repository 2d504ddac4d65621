"""The OpenAPI document says what the API does."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from caller import DEADLINE
from runstream.domain.principal import Kind, Scope

EXAMPLES = 25
TIMEOUT = 300
UNSAYABLE = "positive_data_acceptance"
"""A schema cannot say which models there are, where a run's events end, or that text must not hold NUL."""


@pytest.fixture
def document(stack):
    return httpx.get(f"{stack.url}/openapi.json", timeout=DEADLINE).raise_for_status().json()


def test_the_document_is_valid(document):
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to(document):
    targets = set(references(document))
    assert all(resolved(document, target) for target in targets)
    assert targets == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def references(value):
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str):
            yield target
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolved(document, target):
    for name in target.removeprefix("#/").split("/"):
        document = document[name]
    return document


def test_a_request_is_described_as_the_chat_feature_takes_it(document):
    (content,) = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"].values()
    request = resolved(document, content["schema"]["$ref"])
    chat = resolved(document, request["properties"]["input"]["$ref"])
    assert request["properties"]["feature"]["const"] == "chat"
    assert set(chat["properties"]) == {
        *("messages", "temperature", "max_output_tokens", "stop", "response_format"),
        *("tools", "tool_choice", "reasoning_effort"),
    }
    (message,) = set(references(chat["properties"]["messages"]))
    roles = resolved(document, message)["properties"]["role"]["enum"]
    assert set(roles) == {"system", "developer", "user", "assistant", "tool"}


async def test_a_run_s_output_is_described_as_it_is(document, caller):
    output = document["components"]["schemas"]["Output"]
    assert output["required"] == ["text"]
    met = set()
    for model in ("sim:2", "reasoning:1:1", "tools:1"):
        met |= set((await caller.ended(await caller.create(model)))["output"])
    assert met == set(output["properties"])


async def test_every_event_that_a_reader_meets_is_described(document, caller):
    described = set()
    answer = document["paths"]["/v1/runs/{run_id}/events"]["get"]["responses"]["200"]
    for event in answer["content"]["text/event-stream"]["schema"]["oneOf"]:
        schema = resolved(document, event["properties"]["data"]["contentSchema"]["$ref"])
        described.add((event["properties"]["event"]["const"], frozenset(schema["required"])))
    met = set()
    for model in ("sim:2", "reasoning:1:1", "tools:1", "error:1", "flaky:1:2.5", "hang:1"):
        run_id = await caller.create(model)
        async for event in caller.follow(run_id):
            met.add((event.type, frozenset(event.data)))
            if model == "hang:1" and event.type == "run.delta":
                await caller.cancel(run_id)
    assert met == described


def test_no_request_breaks_the_api_or_is_answered_otherwise_than_described(stack, tmp_path):
    key = stack.create_key("schemathesis", "ada", Kind.SERVER, list(Scope))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{stack.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", "all", "--exclude-checks", UNSAYABLE),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-shrink", "--continue-on-failure"),
            *("--request-timeout", str(DEADLINE), "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "47 selected / 47 total" in done.stdout
