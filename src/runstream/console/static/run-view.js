/** One run on the page: what it was asked, what it has said, how it goes. Everything is set as text, never as markup. */

const STATUS = {
  queued: "Queued",
  running: "Running",
  awaiting_review: "Awaiting review",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
};
const NEAR_THE_END_PX = 60;
const $ = (id) => document.getElementById(id);

export class RunView {
  #run;
  #transcript;
  #output = document.createTextNode("");
  #reasoning = document.createTextNode("");
  #thinking = false;
  #frame = 0;
  #follows = true;
  #clock;

  constructor() {
    $("output").append(this.#output);
    $("reasoning-text").append(this.#reasoning);
    $("scroll").addEventListener("scroll", () => this.#noticeScrolling());
    $("latest").addEventListener("click", () => this.#scrollToEnd());
  }

  /** Back to the page without a run. */
  clear() {
    this.#stopClock();
    this.#run = this.#transcript = undefined;
    for (const id of ["run", "figures", "latest"]) $(id).hidden = true;
    $("welcome").hidden = false;
    document.title = "Runstream";
  }

  /** `run`: as the server gave it. To be called again when more of it is known. */
  showRun(run) {
    if (run.id !== this.#run?.id) {
      this.#output.data = this.#reasoning.data = "";
      this.#follows = true;
      for (const id of ["first-token", "elapsed", "size", "speed"]) $(id).textContent = "–";
    }
    this.#run = run;
    $("welcome").hidden = true;
    $("run").hidden = $("figures").hidden = false;
    $("prompt").textContent = titleOf(run);
    $("run-id").textContent = run.id;
    $("created").textContent = timeOf(run.created_at);
    $("created").dateTime = run.created_at;
    document.title = `${titleOf(run).slice(0, 60)} · Runstream`;
    this.#schedule();
  }

  /** Drawn at most once per frame, however fast the events come. */
  showTranscript(transcript) {
    this.#transcript = transcript;
    this.#schedule();
  }

  showError(message) {
    $("error").textContent = message;
    $("error").hidden = !message;
  }

  #schedule() {
    // A hidden page gets no frames, but its text should be whole when it is looked at or searched.
    if (document.hidden) this.#draw();
    else this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#run || !this.#transcript) return;
    const { text, reasoning, toolCalls, status, restart, end } = this.#transcript;
    const active = !end;
    setText(this.#output, text);
    this.#drawReasoning(reasoning, active && text === "");
    drawToolCalls(toolCalls, active);
    $("output").setAttribute("aria-busy", String(active));
    $("status").dataset.status = status;
    $("status").textContent = STATUS[status] ?? status;
    $("model").textContent = this.#transcript.model ?? this.#run.model ?? "";
    $("restart").hidden = !restart;
    if (restart) $("restart").textContent = restartSentence(restart);
    if (status === "failed") this.showError(end.error?.message ?? "The run failed.");
    $("ending").hidden = active;
    $("copy-output").hidden = text === "";
    this.#drawFigures();
    this.#runClock(active);
    if (this.#follows) this.#scrollToEnd();
    else $("latest").hidden = !active;
  }

  /** Open while there is nothing else to read, then closed once: whoever opens it again keeps it open. */
  #drawReasoning(reasoning, alone) {
    setText(this.#reasoning, reasoning);
    $("reasoning").hidden = reasoning === "";
    const thinking = alone && reasoning !== "";
    if (thinking !== this.#thinking) $("reasoning").open = this.#thinking = thinking;
  }

  #drawFigures() {
    const { created_at: created, first_token_at: first, finished_at: finished, usage } = this.#run;
    const begin = Date.parse(created);
    const firstToken = this.#run.seen?.firstTokenMs ?? (first ? Date.parse(first) - begin : undefined);
    const end = finished ? Date.parse(finished) : this.#transcript.end ? undefined : Date.now();
    const elapsed = end === undefined ? undefined : Math.max(end - begin, 0);
    const tokens = (usage ?? this.#transcript.end?.usage)?.output_tokens;
    const { text, reasoning, toolCalls } = this.#transcript;
    const characters = toolCalls.reduce((sum, call) => sum + call.arguments.length, text.length + reasoning.length);
    const writing = elapsed !== undefined && firstToken !== undefined ? (elapsed - firstToken) / 1000 : 0;
    $("first-token").textContent = firstToken === undefined ? "–" : duration(firstToken);
    $("elapsed").textContent = elapsed === undefined ? "–" : duration(elapsed);
    $("size").textContent = tokens === undefined ? `${count(characters)} characters` : `${count(tokens)} tokens`;
    const speed = tokens === undefined ? [characters / writing, "characters/s"] : [tokens / writing, "tokens/s"];
    $("speed").textContent = writing > 0.05 ? `${count(Math.round(speed[0]))} ${speed[1]}` : "–";
  }

  #runClock(active) {
    if (!active) this.#stopClock();
    else this.#clock ??= setInterval(() => this.#drawFigures(), 100);
  }

  #stopClock() {
    clearInterval(this.#clock);
    this.#clock = undefined;
  }

  #noticeScrolling() {
    const { scrollHeight, scrollTop, clientHeight } = $("scroll");
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_THE_END_PX;
    if (this.#follows) $("latest").hidden = true;
  }

  #scrollToEnd() {
    $("scroll").scrollTop = $("scroll").scrollHeight;
    $("latest").hidden = true;
  }
}

export function titleOf(run) {
  return run.prompt ?? run.input?.messages?.findLast(({ role }) => role === "user")?.content ?? run.metadata?.title ?? run.id;
}

export function statusLabel(status) {
  return STATUS[status] ?? status;
}

/** "12:04" today, "3 Nov, 12:04" before. */
export function timeOf(timestamp) {
  const date = new Date(timestamp);
  const today = date.toDateString() === new Date().toDateString();
  const day = today ? {} : { day: "numeric", month: "short" };
  return date.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit" });
}

/** Grows the node where it can: setting a long text anew for every token would make each dearer than the last. */
function setText(node, text) {
  if (text.length > node.length && text.startsWith(node.data)) node.appendData(text.slice(node.length));
  else if (text !== node.data) node.data = text;
}

function drawToolCalls(calls, active) {
  const list = $("tool-calls");
  list.hidden = calls.length === 0;
  while (list.children.length > calls.length) list.lastChild.remove();
  while (list.children.length < calls.length) list.append(newToolCall());
  calls.forEach((call, i) => {
    const [name, given] = list.children[i].children;
    setText(name.firstChild, call.name ?? "");
    setText(given.firstChild, active ? call.arguments : readable(call.arguments));
  });
}

function newToolCall() {
  const item = document.createElement("li");
  for (const [element, className] of [["span", "name mono"], ["pre", "text mono"]]) {
    const part = document.createElement(element);
    part.className = className;
    part.append(document.createTextNode(""));
    item.append(part);
  }
  return item;
}

/** JSON with its lines broken; what a model did not write to its end stays as it is. */
function readable(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** `reason` is a code such as `worker_lost`. */
function restartSentence({ attempt, reason }) {
  const why = reason ? ` (${reason.replaceAll("_", " ")})` : "";
  return `Began again, attempt ${attempt}${why}. What had been written before was dropped.`;
}

function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

function count(number) {
  return number.toLocaleString("en");
}
