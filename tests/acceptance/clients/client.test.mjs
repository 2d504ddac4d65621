import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { RunstreamClient, RunstreamError } from "../../../src/runstream/console/static/runstream.js";

/** A server that gives each request to the next of `answers`, and keeps what it was asked. */
async function serve(t, answers) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    requests.push({ url: request.url, headers: request.headers, body: Buffer.concat(chunks).toString() });
    const answer = answers[requests.length - 1];
    if (answer) answer(response, request);
    else response.writeHead(500).end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { requests, url: `http://127.0.0.1:${server.address().port}` };
}

const json = (status, body, headers = {}) => (response) =>
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
const cut = (response) => response.destroy();
const event = (id, type, data) => `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
const delta = (id, text) => event(id, "run.delta", { text });
const completed = (id) => event(id, "run.completed", { status: "completed" });

/** An event stream that sends `text` and then ends, is cut, or stays silent. */
const stream = (text, then = "end") => (response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(`retry: 10\n\n${text}`, () => {
    if (then === "end") response.end();
    if (then === "cut") response.destroy();
  });
};

async function read(client, options) {
  const events = [];
  for await (const each of client.follow("run_1", options)) events.push(each);
  return events;
}

test("a request carries the key in the header and never in the address", async (t) => {
  const { requests, url } = await serve(t, [json(200, { id: "run_1" })]);
  await new RunstreamClient({ baseUrl: url, key: "rs_secret" }).getRun("run_1");
  assert.equal(requests[0].headers.authorization, "Bearer rs_secret");
  assert.equal(requests[0].url, "/v1/runs/run_1");
});

test("a server asks for a run's token, and for how long it is good", async (t) => {
  const { requests, url } = await serve(t, [json(201, { token: "rt_1" }), json(201, {})]);
  const client = new RunstreamClient({ baseUrl: url, key: "rs_secret" });
  assert.deepEqual(await client.createRunToken("run_1"), { token: "rt_1" });
  await client.createRunToken("run_1", { access: "read_and_cancel", expiresIn: 60 });
  assert.deepEqual(requests.map((each) => each.url), ["/v1/runs/run_1/token", "/v1/runs/run_1/token"]);
  assert.deepEqual(requests.map((each) => JSON.parse(each.body)), [
    { access: "read", expires_in: 900 },
    { access: "read_and_cancel", expires_in: 60 },
  ]);
});

test("a token is asked for anew for every request", async (t) => {
  const { requests, url } = await serve(t, [json(200, {}), json(200, {})]);
  let number = 0;
  const client = new RunstreamClient({ baseUrl: url, getToken: async () => `t${(number += 1)}` });
  await client.getRun("run_1");
  await client.getRun("run_1");
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), ["Bearer t1", "Bearer t2"]);
});

test("a create that fails on the way is sent again under the same key", async (t) => {
  const { requests, url } = await serve(t, [cut, json(503, {}), json(202, { id: "run_1" })]);
  const run = await new RunstreamClient({ baseUrl: url }).createRun({ input: {} });
  assert.equal(run.id, "run_1");
  const keys = requests.map(({ headers }) => headers["idempotency-key"]);
  assert.equal(keys.length, 3);
  assert.equal(new Set(keys).size, 1);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
});

test("a create takes the key that it is given", async (t) => {
  const { requests, url } = await serve(t, [json(503, {}), json(202, {})]);
  await new RunstreamClient({ baseUrl: url }).createRun({}, { idempotencyKey: "order-17" });
  assert.deepEqual(requests.map(({ headers }) => headers["idempotency-key"]), ["order-17", "order-17"]);
});

test("two creates have two keys", async (t) => {
  const { requests, url } = await serve(t, [json(202, {}), json(202, {})]);
  const client = new RunstreamClient({ baseUrl: url });
  await client.createRun({});
  await client.createRun({});
  assert.notEqual(requests[0].headers["idempotency-key"], requests[1].headers["idempotency-key"]);
});

test("a create waits as long as Retry-After asks", async (t) => {
  const { url } = await serve(t, [json(429, {}, { "Retry-After": "1" }), json(202, { id: "run_1" })]);
  const began = performance.now();
  await new RunstreamClient({ baseUrl: url }).createRun({});
  assert.ok(performance.now() - began >= 1000);
});

test("a wait that nobody would sit through is an error at once", async (t) => {
  const { requests, url } = await serve(t, [json(429, {}, { "Retry-After": "3600" })]);
  await assert.rejects(new RunstreamClient({ baseUrl: url }).createRun({}), { status: 429, retryAfterMs: 3_600_000 });
  assert.equal(requests.length, 1);
});

test("a refusal is thrown with the server's words and is not repeated", async (t) => {
  const refusal = { error: { code: "invalid", message: "Say what to run.", param: "input", request_id: "req_1" } };
  const { requests, url } = await serve(t, [json(422, refusal)]);
  await assert.rejects(new RunstreamClient({ baseUrl: url }).createRun({}), (error) => {
    assert.ok(error instanceof RunstreamError);
    assert.equal(error.message, "Say what to run.");
    assert.deepEqual([error.status, error.code, error.param, error.requestId], [422, "invalid", "input", "req_1"]);
    return true;
  });
  assert.equal(requests.length, 1);
});

test("a server that does not answer in time is asked again", async (t) => {
  const { requests, url } = await serve(t, [() => {}, json(202, { id: "run_1" })]);
  const run = await new RunstreamClient({ baseUrl: url, timeoutMs: 100 }).createRun({});
  assert.equal(run.id, "run_1");
  assert.equal(requests.length, 2);
});

test("a list passes its filters and its cursor on", async (t) => {
  const { requests, url } = await serve(t, [json(200, { data: [], next: null })]);
  await new RunstreamClient({ baseUrl: url }).listRuns({ limit: 5, cursor: "a b&c", status: undefined });
  assert.equal(requests[0].url, "/v1/runs?limit=5&cursor=a+b%26c");
});

test("a stream that is cut goes on after the last whole event", async (t) => {
  const { requests, url } = await serve(t, [
    stream(`${delta("1-3", "abc")}id: 1-6\nevent: run.delta\ndata: {"te`, "cut"),
    cut,
    json(503, {}),
    stream(delta("1-6", "def"), "end"),
    stream(completed("1-7")),
  ]);
  const events = await read(new RunstreamClient({ baseUrl: url, key: "rs_1" }));
  assert.deepEqual(events.map(({ id }) => id), ["1-3", "1-6", "1-7"]);
  assert.deepEqual(events.map(({ data }) => data.text), ["abc", "def", undefined]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, "1-3", "1-3", "1-3", "1-6"]);
  assert.ok(requests.every(({ headers }) => headers.authorization === "Bearer rs_1"));
});

test("a stream begins after the cursor that it is given", async (t) => {
  const { requests, url } = await serve(t, [stream(completed("1-7"))]);
  await read(new RunstreamClient({ baseUrl: url }), { after: "1-6" });
  assert.equal(requests[0].headers["last-event-id"], "1-6");
});

test("nothing is asked after the end", async (t) => {
  const { requests, url } = await serve(t, [stream(completed("1-7") + delta("1-8", "no"), "stay")]);
  const events = await read(new RunstreamClient({ baseUrl: url }));
  assert.deepEqual(events.map(({ type }) => type), ["run.completed"]);
  assert.equal(requests.length, 1);
});

test("204 says that there is nothing more", async (t) => {
  const { url } = await serve(t, [(response) => response.writeHead(204).end()]);
  assert.deepEqual(await read(new RunstreamClient({ baseUrl: url }), { after: "1-7" }), []);
});

test("a run that is not there is an error, not a reason to come again", async (t) => {
  const { requests, url } = await serve(t, [json(404, { error: { code: "not_found", message: "There is no such run." } })]);
  await assert.rejects(read(new RunstreamClient({ baseUrl: url })), { status: 404, message: "There is no such run." });
  assert.equal(requests.length, 1);
});

test("a page where a stream should be is an error that names baseUrl", async (t) => {
  const { url } = await serve(t, [(response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<p>")]);
  await assert.rejects(read(new RunstreamClient({ baseUrl: url })), /text\/html.*check baseUrl/);
});

test("a silent stream is taken for dead, and heartbeats keep one alive", async (t) => {
  const heartbeats = (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    let beats = 0;
    const timer = setInterval(() => {
      beats += 1;
      response.write(beats < 10 ? ": still here\n\n" : completed("1-7"));
      if (beats === 10) clearInterval(timer);
    }, 60);
  };
  const { requests, url } = await serve(t, [stream(delta("1-3", "abc"), "stay"), heartbeats]);
  const events = await read(new RunstreamClient({ baseUrl: url, silenceMs: 300 }));
  assert.deepEqual(events.map(({ id }) => id), ["1-3", "1-7"]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, "1-3"]);
});

test("a stream reports how it is connected", async (t) => {
  const { url } = await serve(t, [stream("", "cut"), stream(completed("1-7"))]);
  const states = [];
  await read(new RunstreamClient({ baseUrl: url }), { onConnection: (state) => states.push(state) });
  assert.deepEqual(states, ["connecting", "live", "reconnecting", "live", "closed"]);
});

test("a network that comes back ends the pause", async (t) => {
  const network = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = network[name].bind(network);
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
  const { url } = await serve(t, [stream("retry: 600000\n\n", "cut"), stream(completed("1-7"))]);
  const client = new RunstreamClient({ baseUrl: url });
  const onConnection = (state) => state === "reconnecting" && setImmediate(() => network.dispatchEvent(new Event("online")));
  assert.equal((await read(client, { onConnection })).length, 1);
});

test("an abort ends the stream with its reason, whether it is open or pausing", async (t) => {
  const { url } = await serve(t, [stream(delta("1-3", "abc"), "stay"), stream("retry: 600000\n\n", "cut")]);
  const client = new RunstreamClient({ baseUrl: url });
  for (const state of ["live", "reconnecting"]) {
    const stop = new AbortController();
    const onConnection = (now) => now === state && setImmediate(() => stop.abort(new Error("enough")));
    await assert.rejects(read(client, { signal: stop.signal, onConnection }), /enough/);
  }
});

test("leaving the loop closes the connection", async (t) => {
  let closed;
  const gone = new Promise((resolve) => (closed = resolve));
  const { url } = await serve(t, [
    (response) => {
      response.on("close", closed);
      stream(delta("1-3", "abc"), "stay")(response);
    },
  ]);
  for await (const each of new RunstreamClient({ baseUrl: url }).follow("run_1")) {
    assert.equal(each.data.text, "abc");
    break;
  }
  await gone;
});
