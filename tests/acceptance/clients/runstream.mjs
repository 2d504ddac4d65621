/** Reads a run with the client that the page is built on. */

import { RunstreamClient } from "../../../src/runstream/console/static/runstream.js";
import { base, key, report, run } from "./report.mjs";

for await (const event of new RunstreamClient({ baseUrl: base, key }).follow(run)) report(event);
