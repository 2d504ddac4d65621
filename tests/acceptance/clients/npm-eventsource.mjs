/** Reads a run with npm `eventsource`. Does not close it: 204 at the terminal cursor has to. */

import { EVENTS, eventsUrl, key, load, report } from "./report.mjs";

const { EventSource } = load("eventsource");

const source = new EventSource(eventsUrl, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } }),
});
for (const type of EVENTS) {
  source.addEventListener(type, ({ data, lastEventId }) => report({ id: lastEventId, type, data: JSON.parse(data) }));
}
source.addEventListener("error", ({ code }) => {
  if (source.readyState === EventSource.CLOSED) report({ closedBy: code });
});
