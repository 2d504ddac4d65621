/** The past runs, newest first, a page at a time. */

import { statusLabel, timeOf, titleOf } from "./run-view.js";

const PAGE = 20;
const POLL_MS = 4000;
const $ = (id) => document.getElementById(id);

export class RunsList {
  #client;
  #onOpen;
  #onError;
  #runs = new Map();
  #next = undefined;
  #current = null;
  #poll;

  /** `onOpen(runId)` is called for a plain click; a click with a modifier opens a tab, as for any link. */
  constructor(client, { onOpen, onError }) {
    this.#client = client;
    this.#onOpen = onOpen;
    this.#onError = onError;
    $("more").addEventListener("click", () => this.#loadMore());
    $("toggle-runs").addEventListener("click", () => this.#toggle());
  }

  /** Brings the newest page up to date, and keeps doing so while something in it goes on and the page is seen. */
  async refresh() {
    clearTimeout(this.#poll);
    const page = await this.#page({ limit: PAGE });
    if (!page) return;
    const newest = new Map(page.data.map((run) => [run.id, run]));
    const joins = page.data.some((run) => this.#runs.has(run.id));
    const older = joins ? [...this.#runs].filter(([id]) => !newest.has(id)) : [];
    if (!joins || this.#next === undefined) this.#next = page.next;
    this.#runs = new Map([...newest, ...older]);
    this.#draw();
    const goesOn = page.data.some(({ status }) => status === "queued" || status === "running");
    if (goesOn && !document.hidden) this.#poll = setTimeout(() => this.refresh(), POLL_MS);
  }

  clear() {
    this.#runs.clear();
    this.#next = undefined;
    this.#draw();
  }

  /** Adds a run that has just been made, or shows what has become of a listed one. */
  update(run) {
    if (this.#runs.has(run.id)) this.#runs.set(run.id, run);
    else if (this.#isNewest(run)) this.#runs = new Map([[run.id, run], ...this.#runs]);
    this.#draw();
  }

  setCurrent(runId) {
    this.#current = runId;
    this.#draw();
  }

  close() {
    delete $("runs").dataset.open;
    $("toggle-runs").setAttribute("aria-expanded", "false");
  }

  async #loadMore() {
    const page = await this.#page({ limit: PAGE, cursor: this.#next });
    if (!page) return;
    const firstNew = page.data.find((run) => !this.#runs.has(run.id));
    for (const run of page.data) this.#runs.set(run.id, run);
    this.#next = page.next;
    this.#draw();
    // The button may be gone now, and the focus with it.
    if (firstNew) $("runs-list").querySelector(`[data-run="${CSS.escape(firstNew.id)}"]`).focus();
  }

  async #page(query) {
    try {
      return await this.#client.listRuns(query);
    } catch (error) {
      this.#onError(error);
      return undefined;
    }
  }

  #isNewest(run) {
    const [newest] = this.#runs.values();
    return !newest || run.created_at >= newest.created_at;
  }

  #toggle() {
    const open = $("runs").toggleAttribute("data-open");
    $("toggle-runs").setAttribute("aria-expanded", String(open));
    if (open) $("runs").querySelector("a")?.focus();
  }

  #draw() {
    const items = new Map([...$("runs-list").children].map((item) => [item.firstChild.dataset.run, item]));
    const wanted = [...this.#runs.values()].map((run) => this.#item(items.get(run.id), run));
    const shown = [...$("runs-list").children];
    // Moving an element takes the focus from it, so nothing is moved that is in its place.
    if (wanted.length !== shown.length || wanted.some((item, i) => item !== shown[i])) {
      $("runs-list").replaceChildren(...wanted);
    }
    $("runs-empty").hidden = wanted.length > 0;
    $("more").hidden = !this.#next;
  }

  #item(existing, run) {
    const item = existing ?? this.#newItem(run);
    const link = item.firstChild;
    const [title, about] = link.children;
    const [status, time] = about.children;
    title.textContent = titleOf(run);
    status.textContent = statusLabel(run.status);
    status.dataset.status = run.status;
    time.textContent = timeOf(run.created_at);
    if (run.id === this.#current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    return item;
  }

  #newItem(run) {
    const link = element("a", "", element("span", "title"), element("span", "about", element("span", "status"), element("span", "")));
    link.href = `?run=${encodeURIComponent(run.id)}`;
    link.dataset.run = run.id;
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      this.#onOpen(run.id);
    });
    return element("li", "", link);
  }
}

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}
