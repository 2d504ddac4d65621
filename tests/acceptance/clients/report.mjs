/** What the programs beside this file share: where to read, and a line of JSON on stdout for each event. */

import { createRequire } from "node:module";

const [baseUrl, runId, packages] = process.argv.slice(2);

export const TERMINAL = ["run.completed", "run.failed", "run.cancelled"];
export const EVENTS = ["run.started", "run.delta", "run.restarted", ...TERMINAL];
export const key = process.env.RUNSTREAM_KEY;
export const run = runId;
export const base = baseUrl;
export const eventsUrl = `${baseUrl}/v1/runs/${runId}/events`;

/** A package from the directory that the tests installed it in. */
export function load(name) {
  return createRequire(`${packages}/`)(name);
}

export function report(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
