/** Reads a run with npm `@microsoft/fetch-event-source`, which is made for browsers: Node lends it a window. */

import { TERMINAL, eventsUrl, key, load, report } from "./report.mjs";

globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = load("@microsoft/fetch-event-source");

const stop = new AbortController();
await fetchEventSource(eventsUrl, {
  headers: { Authorization: `Bearer ${key}` },
  signal: stop.signal,
  onmessage({ id, event, data }) {
    // Comments and a lone `retry:` reach it as messages without data.
    if (data === "") return;
    report({ id, type: event, data: JSON.parse(data) });
    if (TERMINAL.includes(event)) stop.abort();
  },
});
