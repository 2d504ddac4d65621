import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStreamParser } from "../../../src/runstream/console/static/runstream.js";

const bytes = (text) => new TextEncoder().encode(text);

function parse(text, lastEventId) {
  const parser = new EventStreamParser(lastEventId);
  return { messages: parser.push(bytes(text)), parser };
}

const CASES = {
  "LF, CRLF and CR end a line alike": [
    "id: 1\ndata: a\n\nid: 2\r\ndata: b\r\n\r\nid: 3\rdata: c\r\r",
    [["1", "message", "a"], ["2", "message", "b"], ["3", "message", "c"]],
  ],
  "a CRLF is one line's end, wherever it is cut": ["data: a\r\ndata: b\r\n\r\n", [["", "message", "a\nb"]]],
  "several data lines are joined by newlines": ["data: a\ndata:\ndata:  b\n\n", [["", "message", "a\n\n b"]]],
  "comments and unknown fields are passed over": [": ping\n\nfoo: x\n:\ndata: a\n\n", [["", "message", "a"]]],
  "an id lasts until the next one": ["id: 7\ndata: a\n\ndata: b\n\n", [["7", "message", "a"], ["7", "message", "b"]]],
  "an id with a NUL is ignored": ["id: 7\nid: 8\0\ndata: a\n\n", [["7", "message", "a"]]],
  "an event's name is for that event alone": [
    "event: x\ndata: a\n\nevent: y\n\ndata: b\n\n",
    [["", "x", "a"], ["", "message", "b"]],
  ],
  "a field without a colon has an empty value": ["data\n\ndata\ndata\n\n", [["", "message", ""], ["", "message", "\n"]]],
  "a byte order mark at the beginning is dropped": ["\uFEFFdata: a\n\n", [["", "message", "a"]]],
  "an event without its blank line never happened": ["id: 1\ndata: a\n\nid: 2\ndata: b\n", [["1", "message", "a"]]],
  "text of every width survives": ["data: é☕🚀\n\ndata: \u2028\n\n", [["", "message", "é☕🚀"], ["", "message", "\u2028"]]],
};

for (const [name, [text, expected]] of Object.entries(CASES)) {
  test(name, () => {
    const { messages } = parse(text);
    assert.deepEqual(messages.map(({ id, type, data }) => [id, type, data]), expected);
  });

  test(`${name}, cut anywhere`, () => {
    const whole = bytes(text);
    for (let first = 0; first <= whole.length; first++) {
      for (let second = first; second <= whole.length; second++) {
        const parser = new EventStreamParser();
        const pieces = [whole.slice(0, first), whole.slice(first, second), whole.slice(second)];
        const messages = pieces.flatMap((piece) => parser.push(piece));
        assert.deepEqual(messages.map(({ id, type, data }) => [id, type, data]), expected, `cut at ${first}, ${second}`);
      }
    }
  });
}

test("the place to resume at never runs ahead of the events that were given out", () => {
  const { parser } = parse("id: 1\ndata: a\n\nid: 2\ndata: b\n", "0");
  assert.equal(parser.lastEventId, "1");
  parser.push(bytes("\n"));
  assert.equal(parser.lastEventId, "2");
});

test("an id alone moves the place to resume at", () => {
  assert.equal(parse("id: 5\n\n", "4").parser.lastEventId, "5");
});

test("retry takes digits only", () => {
  assert.equal(parse("retry: 250\nretry: 1e9\nretry: -1\n\n").parser.retryMs, 250);
  assert.equal(parse("data: x\n\n").parser.retryMs, undefined);
});
