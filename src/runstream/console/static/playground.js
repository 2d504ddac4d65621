/** The playground: sends prompts, follows the run that the address names (`?run=ID`), cancels it. */

import { KeyDialog } from "./key-dialog.js";
import { RunView, titleOf } from "./run-view.js";
import { RunsList } from "./runs-list.js";
import { RunstreamClient, RunstreamError, emptyTranscript, fold } from "./runstream.js";

const CONNECTION = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  offline: "Offline, will continue",
};
const FIRST_TOKENS = new Set(["run.delta", "run.reasoning", "run.tool_call"]);
const TITLE_LENGTH = 80;
const UNSENT = "runstream.unsent";
const PATIENCE_MS = 2000;
const $ = (id) => document.getElementById(id);

const configuration = await fetch("/console.json", { cache: "no-store" }).then((response) => response.json());
const keys = new KeyDialog(configuration.key);
const client = new RunstreamClient({ getToken: () => keys.current() });
const view = new RunView();
const list = new RunsList(client, { onOpen: goTo, onError: (error) => reportTo($("send-error"), error) });
/** @type {{ run: object, transcript: object, leave: AbortController } | undefined} */
let open;

await start();

async function start() {
  offerModels();
  listen();
  if (!keys.current() && !(await keys.ask())) return view.clear();
  refreshList();
  if (!(await resend())) openFromAddress();
}

function offerModels() {
  $("model-input").placeholder = configuration.default_model ?? configuration.models[0] ?? "";
  $("models").append(...configuration.models.map((model) => new Option(model)));
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $("send-keys").textContent = "⌘ ↵";
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("cancel").addEventListener("click", cancel);
  $("home").addEventListener("click", (event) => {
    event.preventDefault();
    goTo(null);
    $("prompt-input").focus();
  });
  $("change-key").addEventListener("click", () => askForKey());
  $("copy-output").addEventListener("click", () => copy(open.transcript.text, "Text copied"));
  $("run-id").addEventListener("click", () => copy(open.run.id, "Run id copied"));
  $("use-again").addEventListener("click", () => writePrompt(titleOf(open.run)));
  $("examples").addEventListener("click", ({ target }) => target.closest("button") && writePrompt(target.textContent));
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", openFromAddress);
  document.addEventListener("visibilitychange", () => document.hidden || refreshList());
}

function onKey(event) {
  if (keys.asking || event.isComposing) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
  if (event.key === "Escape") {
    if ($("runs").hasAttribute("data-open")) list.close();
    else if (!$("cancel").hidden) cancel();
  }
}

/* Sending */

async function send() {
  const prompt = $("prompt-input").value.trim();
  if (!prompt || $("send").disabled) return;
  const title = [...prompt.replace(/\s+/g, " ")].slice(0, TITLE_LENGTH).join("");
  const body = { feature: "chat", input: { messages: [{ role: "user", content: prompt }] }, metadata: { title } };
  const model = $("model-input").value.trim();
  const idempotencyKey = crypto.getRandomValues(new Uint32Array(4)).join("-");
  await submit({ body: model ? { ...body, model } : body, idempotencyKey });
}

/** A request that a refresh interrupted is sent again under its idempotency key, which makes it the same run. */
async function resend() {
  const unsent = JSON.parse(sessionStorage.getItem(UNSENT));
  return unsent !== null && (await submit(unsent));
}

async function submit({ body, idempotencyKey }) {
  const prompt = body.input.messages[0].content;
  sessionStorage.setItem(UNSENT, JSON.stringify({ body, idempotencyKey }));
  $("send").disabled = true;
  $("send-error").textContent = "";
  const patience = setTimeout(() => ($("send-error").textContent = "No answer yet. Still trying."), PATIENCE_MS);
  const sentAt = performance.now();
  try {
    const run = await client.createRun(body, { idempotencyKey });
    $("prompt-input").value = "";
    list.update(run);
    history.pushState(null, "", `?run=${encodeURIComponent(run.id)}`);
    $("send-error").textContent = "";
    follow({ ...run, prompt, seen: { sentAt } });
    return true;
  } catch (error) {
    $("prompt-input").value = prompt;
    reportTo($("send-error"), error);
    return false;
  } finally {
    clearTimeout(patience);
    sessionStorage.removeItem(UNSENT);
    $("send").disabled = false;
  }
}

/* Following */

function goTo(runId) {
  history.pushState(null, "", runId ? `?run=${encodeURIComponent(runId)}` : location.pathname);
  openFromAddress();
}

async function openFromAddress() {
  const runId = new URLSearchParams(location.search).get("run");
  leave();
  list.close();
  if (!runId) return view.clear();
  const leaving = new AbortController();
  open = { run: { id: runId }, transcript: emptyTranscript(), leave: leaving };
  try {
    const run = await client.getRun(runId, { signal: leaving.signal });
    follow(run);
  } catch (error) {
    if (leaving.signal.aborted) return;
    view.clear();
    reportTo($("send-error"), error);
  }
}

async function follow(run) {
  leave();
  const here = (open = { run, transcript: emptyTranscript(), leave: new AbortController() });
  const { signal } = here.leave;
  view.showError("");
  view.showRun(run);
  view.showTranscript(here.transcript);
  list.setCurrent(run.id);
  $("cancel").hidden = $("cancel").disabled = isOver(run);
  const onConnection = (state) => open === here && !isOver(run) && showConnection(state);
  try {
    for await (const event of client.follow(run.id, { signal, onConnection })) take(here, event);
    if (open === here) await settle(here);
  } catch (error) {
    if (signal.aborted) return;
    view.showError(error.message);
    reportTo($("send-error"), error);
  }
}

function take(here, event) {
  const { run, transcript } = here;
  here.transcript = fold(transcript, event);
  if (FIRST_TOKENS.has(event.type) && run.seen && run.seen.firstTokenMs === undefined) {
    run.seen.firstTokenMs = performance.now() - run.seen.sentAt;
  }
  if (here.transcript.status !== transcript.status) list.update({ ...run, status: here.transcript.status });
  if (event.type === "run.restarted") announce(`The run began again, attempt ${event.data.attempt}.`);
  if (event.type === "run.started") announce("The run has started.");
  view.showTranscript(here.transcript);
}

/** The run is over: its last word, and the figures that the server keeps. */
async function settle(here) {
  $("cancel").hidden = true;
  const words = here.transcript.text.split(/\s+/).length - 1;
  announce(`The run is ${here.transcript.status}, ${words} words.`);
  const run = { ...here.run, ...(await client.getRun(here.run.id, { signal: here.leave.signal })) };
  here.run = run;
  list.update(run);
  list.refresh();
  view.showRun(run);
}

function leave() {
  open?.leave.abort();
  open = undefined;
  $("cancel").hidden = true;
  $("connection").hidden = true;
  list.setCurrent(null);
}

async function cancel() {
  if (!open || $("cancel").disabled) return;
  $("cancel").disabled = true;
  try {
    await client.cancelRun(open.run.id);
  } catch (error) {
    $("cancel").disabled = false;
    reportTo($("send-error"), error);
  }
}

function isOver(run) {
  return ["completed", "failed", "cancelled"].includes(run.status);
}

/* Telling */

function showConnection(state) {
  $("connection").hidden = state === "closed";
  $("connection").dataset.state = state;
  $("connection-label").textContent = CONNECTION[state] ?? "";
}

function announce(sentence) {
  $("announcer").textContent = sentence;
}

function reportTo(place, error) {
  if (error instanceof RunstreamError && error.status === 401) askForKey(error.message);
  else place.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
}

async function askForKey(reason) {
  if (keys.asking || !(await keys.ask(reason))) return;
  list.clear();
  refreshList();
  openFromAddress();
}

function refreshList() {
  if (keys.current()) list.refresh();
}

async function copy(text, done) {
  await navigator.clipboard.writeText(text);
  announce(done);
}

function writePrompt(text) {
  $("prompt-input").value = text;
  $("prompt-input").focus();
}
