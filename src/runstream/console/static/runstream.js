/**
 * Runstream's client for browsers and Node >= 18. One file without dependencies: copy it into your application.
 *
 *     const client = new RunstreamClient({ baseUrl: "https://runs.example.com", getToken: () => session.key() });
 *     const run = await client.createRun({ input: { messages: [{ role: "user", content: "Hello" }] } });
 *     let transcript = emptyTranscript();
 *     for await (const event of client.follow(run.id)) {
 *       transcript = fold(transcript, event);
 *       show(transcript.text);
 *     }
 *
 * @typedef {{ id: string, type: string, data: any }} RunEvent
 * @typedef {"connecting" | "live" | "reconnecting" | "offline" | "closed"} Connection
 */

const TERMINAL = new Set(["run.completed", "run.failed", "run.cancelled"]);
const RETRY_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const LONGEST_RETRY_AFTER_MS = 60_000;
const ATTEMPTS = 8;

export class RunstreamClient {
  #baseUrl;
  #getToken;
  #silenceMs;
  #timeoutMs;

  /**
   * `getToken` may be async and is asked anew for every request, so that a short-lived token can be renewed.
   * `silenceMs`: a stream that stays silent for so long is taken for dead and opened again; the server's
   * heartbeat comes every 15 s. `timeoutMs`: for one attempt of a plain request, and for a stream to open.
   */
  constructor({ baseUrl = "/", key, getToken = () => key, silenceMs = 45_000, timeoutMs = 30_000 } = {}) {
    this.#baseUrl = new URL(baseUrl, globalThis.location?.href).href.replace(/\/+$/, "");
    this.#getToken = getToken;
    this.#silenceMs = silenceMs;
    this.#timeoutMs = timeoutMs;
  }

  /** Retries under one idempotency key: however often the request has to be sent, it makes one run. */
  createRun(body, { idempotencyKey = newKey(), signal } = {}) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
    return this.#call("POST", "/v1/runs", { headers, body: JSON.stringify(body), signal });
  }

  getRun(runId, { signal } = {}) {
    return this.#call("GET", runPath(runId), { signal });
  }

  /** `filters`: `limit`, `cursor` (the `next` of the page before), `status`, ... @returns `{ data, next }` */
  listRuns({ signal, ...filters } = {}) {
    const given = Object.entries(filters).filter(([, value]) => value !== undefined && value !== null);
    const query = new URLSearchParams(given).toString();
    return this.#call("GET", query ? `/v1/runs?${query}` : "/v1/runs", { signal });
  }

  cancelRun(runId, { signal } = {}) {
    return this.#call("POST", `${runPath(runId)}/cancel`, { signal });
  }

  /**
   * For a server: a token with which a tab reads this run and nothing else, and cancels it with `access`
   * "read_and_cancel". `expiresIn`: seconds. @returns `{ token, expires_at, ... }`
   */
  createRunToken(runId, { access = "read", expiresIn = 900, signal } = {}) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ access, expires_in: expiresIn });
    return this.#call("POST", `${runPath(runId)}/token`, { headers, body, signal });
  }

  /**
   * Every event after the cursor `after`, each once and in order, until the run has ended; connections may break
   * as they like. Throws RunstreamError where reconnecting cannot help, and the signal's reason when it aborts.
   * To resume in another page or process, keep the `id` of the last event and give it as `after`.
   *
   * @param {{ after?: string, signal?: AbortSignal, onConnection?: (state: Connection) => void }} options
   * @returns {AsyncGenerator<RunEvent, void, void>}
   */
  async *follow(runId, { after = "", signal, onConnection = () => {} } = {}) {
    const backoff = new Backoff();
    let cursor = after;
    onConnection("connecting");
    try {
      while (true) {
        const link = new Link(signal);
        let failure;
        try {
          const response = await this.#openEvents(runId, cursor, link);
          if (response.status === 204) return;
          onConnection("live");
          const parser = new EventStreamParser(cursor);
          for await (const chunk of link.chunks(response.body, this.#silenceMs)) {
            for (const message of parser.push(chunk)) {
              cursor = message.id;
              yield { id: message.id, type: message.type, data: JSON.parse(message.data) };
              if (TERMINAL.has(message.type)) return;
            }
            cursor = parser.lastEventId;
            backoff.succeeded(parser.retryMs);
          }
        } catch (error) {
          signal?.throwIfAborted();
          if (!link.lost && !isTransient(error)) throw error;
          failure = error;
        } finally {
          link.close();
        }
        onConnection(globalThis.navigator?.onLine === false ? "offline" : "reconnecting");
        await backoff.pause(failure, signal);
      }
    } finally {
      onConnection("closed");
    }
  }

  async #openEvents(runId, cursor, link) {
    const headers = { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) };
    const response = await link.within(this.#timeoutMs, () =>
      this.#fetch("GET", `${runPath(runId)}/events`, { headers, signal: link.signal }),
    );
    const type = response.headers.get("Content-Type") ?? "nothing";
    if (response.status !== 204 && !type.startsWith("text/event-stream")) {
      throw new Error(`${this.#baseUrl} answered ${type} instead of an event stream: check baseUrl`);
    }
    return response;
  }

  async #call(method, path, { headers = {}, body, signal }) {
    const backoff = new Backoff();
    for (let attempt = 1; ; attempt++) {
      const link = new Link(signal);
      try {
        return await link.within(this.#timeoutMs, async () => {
          const response = await this.#fetch(method, path, { headers, body, signal: link.signal });
          return response.json();
        });
      } catch (error) {
        signal?.throwIfAborted();
        const retry = (link.lost || isTransient(error)) && !(error.retryAfterMs > LONGEST_RETRY_AFTER_MS);
        if (!retry || attempt === ATTEMPTS) throw error;
        await backoff.pause(error, signal);
      } finally {
        link.close();
      }
    }
  }

  async #fetch(method, path, { headers, body, signal }) {
    const token = await this.#getToken();
    const authorization = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(this.#baseUrl + path, {
      method,
      headers: { ...headers, ...authorization },
      body,
      signal,
      cache: "no-store",
    });
    if (!response.ok) throw await RunstreamError.from(response);
    return response;
  }
}

/** The server's refusal: its message, and `status`, `code`, `param`, `requestId`, `retryAfterMs` beside it. */
export class RunstreamError extends Error {
  constructor(status, { code, message, param, request_id: requestId } = {}, retryAfterMs) {
    super(message ?? `The server answered with status ${status}.`);
    this.name = "RunstreamError";
    Object.assign(this, { status, code, param, requestId, retryAfterMs });
  }

  static async from(response) {
    const body = await response.json().catch(() => null);
    return new RunstreamError(response.status, body?.error, parseRetryAfter(response.headers.get("Retry-After")));
  }
}

/**
 * What a run has said so far; see `fold`. `attempt` above 1 means that it began again. `toolCalls` are `{ id, name,
 * arguments }`, where the arguments are a piece of JSON until the run has ended.
 */
export function emptyTranscript() {
  return { status: "queued", attempt: 0, model: null, text: "", reasoning: "", toolCalls: [], restart: null, end: null };
}

/** The transcript with one more event. Changes nothing it is given, so it serves as a reducer as it is. */
export function fold(transcript, { type, data }) {
  switch (type) {
    case "run.started":
      return { ...emptyTranscript(), status: "running", attempt: data.attempt, model: data.model };
    case "run.restarted":
      return {
        ...emptyTranscript(),
        status: "running",
        attempt: data.attempt,
        model: data.model ?? transcript.model,
        restart: { attempt: data.attempt, reason: data.reason },
      };
    case "run.delta":
      return { ...transcript, text: transcript.text + data.text };
    case "run.reasoning":
      return { ...transcript, reasoning: transcript.reasoning + data.text };
    case "run.tool_call":
      return { ...transcript, toolCalls: withToolCallPiece(transcript.toolCalls, data) };
    case "run.awaiting_review":
      return { ...transcript, status: "awaiting_review" };
    case "run.completed":
    case "run.failed":
    case "run.cancelled":
      return { ...transcript, status: type.slice("run.".length), end: data };
    default:
      return transcript;
  }
}

/**
 * Parses `text/event-stream` as the HTML standard has it, from chunks of bytes cut anywhere. `lastEventId` is where
 * to resume: it never runs ahead of what `push` has returned.
 */
export class EventStreamParser {
  lastEventId;
  retryMs = undefined;
  #decoder = new TextDecoder();
  #rest = "";
  #afterCarriageReturn = false;
  #data = [];
  #type = "";
  #id;

  constructor(lastEventId = "") {
    this.lastEventId = this.#id = lastEventId;
  }

  /** @param {Uint8Array} bytes @returns {{ id: string, type: string, data: string }[]} the messages they complete */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    // A CR ends a line at once; a LF that then opens the next chunk belongs to it.
    const halfOfCrLf = this.#afterCarriageReturn && text.startsWith("\n");
    this.#afterCarriageReturn = text.endsWith("\r");
    if (halfOfCrLf) text = text.slice(1);
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    return lines.map((line) => this.#take(line)).filter((message) => message !== undefined);
  }

  #take(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
    return undefined;
  }

  #dispatch() {
    this.lastEventId = this.#id;
    const message = { id: this.#id, type: this.#type || "message", data: this.#data.join("\n") };
    const hasData = this.#data.length > 0;
    this.#data = [];
    this.#type = "";
    return hasData ? message : undefined;
  }
}

/**
 * One request's lifeline. It aborts with the caller's signal, when its deadline passes, and when the network goes
 * or comes (what was open is then dead, and may not know it); `lost` tells the latter two from the first.
 */
class Link {
  lost = false;
  #controller = new AbortController();
  #outer;
  #timer;
  #onAbort = () => this.#controller.abort(this.#outer.reason);
  #onNetworkChange = () => this.#lose("The network changed.");

  constructor(outer) {
    outer?.throwIfAborted();
    this.#outer = outer;
    outer?.addEventListener("abort", this.#onAbort);
    globalThis.addEventListener?.("online", this.#onNetworkChange);
    globalThis.addEventListener?.("offline", this.#onNetworkChange);
  }

  get signal() {
    return this.#controller.signal;
  }

  async within(ms, step) {
    this.#timer = setTimeout(() => this.#lose(`The server did not answer within ${ms / 1000} s.`), ms);
    try {
      return await step();
    } finally {
      clearTimeout(this.#timer);
    }
  }

  /** The body's chunks. The silence between two of them is limited, not the time that the caller spends on one. */
  async *chunks(body, silenceMs) {
    const reader = body.getReader();
    while (true) {
      const { done, value } = await this.within(silenceMs, () => reader.read());
      if (done) return;
      yield value;
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#onAbort);
    globalThis.removeEventListener?.("online", this.#onNetworkChange);
    globalThis.removeEventListener?.("offline", this.#onNetworkChange);
    this.#controller.abort();
  }

  #lose(message) {
    this.lost = true;
    this.#controller.abort(new Error(message));
  }
}

/** Pauses that grow with each failure in a row, spread so that many clients do not come back as one. */
class Backoff {
  #failures = 0;
  #retryMs = RETRY_MS;

  /** `retryMs`: the server's own wish for the first pause. */
  succeeded(retryMs = RETRY_MS) {
    this.#failures = 0;
    this.#retryMs = retryMs;
  }

  async pause(error, signal) {
    const longest = Math.max(LONGEST_PAUSE_MS, this.#retryMs);
    const usual = Math.min(this.#retryMs * 2 ** this.#failures, longest);
    this.#failures += 1;
    const spread = usual * (0.5 + Math.random());
    const asked = error?.retryAfterMs;
    if (asked === undefined) await sleep(spread, signal, { wakeable: true });
    else await sleep(asked + spread, signal, { wakeable: false });
  }
}

/** A wakeable sleep ends early when the network goes or comes, or the page is looked at again. */
function sleep(ms, signal, { wakeable }) {
  return new Promise((resolve, reject) => {
    const page = globalThis.document;
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      globalThis.removeEventListener?.("online", done);
      globalThis.removeEventListener?.("offline", done);
      page?.removeEventListener("visibilitychange", seen);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const seen = () => page.visibilityState === "visible" && done();
    const timer = setTimeout(done, Math.min(ms, 2 ** 31 - 1));
    signal?.addEventListener("abort", done);
    if (wakeable) {
      globalThis.addEventListener?.("online", done);
      globalThis.addEventListener?.("offline", done);
      page?.addEventListener("visibilitychange", seen);
    }
    if (signal?.aborted) done();
  });
}

/** `fetch` reports every failure of the network as a TypeError. */
function isTransient(error) {
  if (error instanceof RunstreamError) return [408, 429].includes(error.status) || error.status >= 500;
  return error instanceof TypeError;
}

/** Seconds or an HTTP date, as milliseconds from now. */
function parseRetryAfter(header) {
  if (!header) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(ms, 0);
}

/** An event opens a call with its `id` and `name`, or adds to the arguments of the one with its `index`. */
function withToolCallPiece(toolCalls, { index, id, name, arguments: piece }) {
  const known = toolCalls[index] ?? { id: null, name: null, arguments: "" };
  const calls = [...toolCalls];
  calls[index] = { id: id ?? known.id, name: name ?? known.name, arguments: known.arguments + (piece ?? "") };
  return calls;
}

function runPath(runId) {
  return `/v1/runs/${encodeURIComponent(runId)}`;
}

/** 128 random bits. `crypto.randomUUID` is missing from pages served over plain HTTP, `crypto` from Node 18. */
function newKey() {
  const bytes = Array.from({ length: 16 }, () => Math.floor(Math.random() * 256));
  const random = globalThis.crypto?.getRandomValues(new Uint8Array(16)) ?? bytes;
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
