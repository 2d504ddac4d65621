import assert from "node:assert/strict";
import { test } from "node:test";

import { emptyTranscript, fold } from "../../../src/runstream/console/static/runstream.js";

const started = { type: "run.started", data: { run_id: "run_1", attempt: 1, model: "fast" } };
const delta = (text) => ({ type: "run.delta", data: { text } });
const foldAll = (events) => events.reduce(fold, emptyTranscript());

test("deltas add up to the text", () => {
  const transcript = foldAll([started, delta("Hel"), delta("lo")]);
  assert.equal(transcript.text, "Hello");
  assert.equal(transcript.status, "running");
  assert.equal(transcript.model, "fast");
});

test("a restart forgets what was said and tells that it did", () => {
  const restarted = { type: "run.restarted", data: { attempt: 2, reason: "worker lost" } };
  const transcript = foldAll([started, delta("Hel"), restarted, delta("Bye")]);
  assert.equal(transcript.text, "Bye");
  assert.equal(transcript.attempt, 2);
  assert.deepEqual(transcript.restart, { attempt: 2, reason: "worker lost" });
});

test("the pieces of tool calls are put together by their index", () => {
  const piece = (data) => ({ type: "run.tool_call", data });
  const transcript = foldAll([
    started,
    piece({ index: 0, id: "a", name: "search" }),
    piece({ index: 0, arguments: '{"q":' }),
    piece({ index: 1, id: "b", name: "open" }),
    piece({ index: 1, arguments: "{}" }),
    piece({ index: 0, arguments: '"x"}' }),
  ]);
  assert.deepEqual(transcript.toolCalls, [
    { id: "a", name: "search", arguments: '{"q":"x"}' },
    { id: "b", name: "open", arguments: "{}" },
  ]);
});

test("reasoning stands apart from the text", () => {
  const thought = (text) => ({ type: "run.reasoning", data: { text } });
  const transcript = foldAll([started, thought("h"), thought("m"), delta("So"), thought("?")]);
  assert.equal(transcript.reasoning, "hm?");
  assert.equal(transcript.text, "So");
});

test("a restart forgets reasoning and tool calls as well", () => {
  const transcript = foldAll([
    started,
    { type: "run.reasoning", data: { text: "hm" } },
    { type: "run.tool_call", data: { index: 0, id: "a", name: "search" } },
    { type: "run.restarted", data: { attempt: 2, reason: "worker lost" } },
  ]);
  assert.equal(transcript.reasoning, "");
  assert.deepEqual(transcript.toolCalls, []);
});

test("the end keeps the text and says how it came", () => {
  const transcript = foldAll([started, delta("Hel"), { type: "run.cancelled", data: { partial: true } }]);
  assert.equal(transcript.text, "Hel");
  assert.equal(transcript.status, "cancelled");
  assert.deepEqual(transcript.end, { partial: true });
});

test("an event of a later version changes nothing", () => {
  const before = foldAll([started, delta("Hel")]);
  assert.deepEqual(fold(before, { type: "run.unheard_of", data: {} }), before);
});

test("what it is given stays as it was", () => {
  const before = Object.freeze(foldAll([started]));
  fold(before, delta("Hel"));
  assert.equal(before.text, "");
});
