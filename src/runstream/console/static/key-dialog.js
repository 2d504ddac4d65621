/** The key: from the server in development, else asked for and kept for this tab. It never enters a URL. */

const STORED = "runstream.key";
const $ = (id) => document.getElementById(id);

export class KeyDialog {
  #served;
  #waiting;

  /** `served`: the key that the server gave to this page, or null. */
  constructor(served) {
    this.#served = served;
    $("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORED, $("key-input").value.trim());
      $("key-dialog").close("given");
    });
    $("key-cancel").addEventListener("click", () => $("key-dialog").close());
    $("key-dialog").addEventListener("close", () => this.#waiting?.());
  }

  get asking() {
    return $("key-dialog").open;
  }

  current() {
    return sessionStorage.getItem(STORED) ?? this.#served;
  }

  /** Resolves when the dialog has been closed: whether with a key. To be asked once at a time: see `asking`. */
  async ask(reason = "") {
    $("key-dialog").returnValue = "";
    $("key-error").textContent = reason;
    $("key-input").value = "";
    $("key-dialog").showModal();
    await new Promise((resolve) => (this.#waiting = resolve));
    return $("key-dialog").returnValue === "given";
  }
}
