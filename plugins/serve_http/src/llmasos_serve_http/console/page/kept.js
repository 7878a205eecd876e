// The conversations that are kept on the server: their list, search in it, and what is done with them.

import { button, el, fill } from "./dom.js";
import { current, t } from "./words.js";

export class Kept {
  #api;
  #chat;
  #writing = Promise.resolve();

  /** `chat` has `label` of the conversation that is shown, `open(found)`, `removed(label)` and `complain(sentence)`. */
  constructor(api, chat) {
    this.#api = api;
    this.#chat = chat;
    this.list = el("ul", { class: "kept" });
    this.query = el("input", { type: "search", placeholder: t("search"), "aria-label": t("search"), on: { input: () => this.#searchSoon() } });
    const open = matchMedia("(min-width: 56rem)").matches;
    this.place = el("details", { class: "side", open }, el("summary", {}, t("conversations")), this.query, this.list);
  }

  /** Keep a conversation, whose label is that of `owner`. One after the other: what is kept has its label only once that was answered. */
  keep(owner, conversation) {
    this.#writing = this.#writing.then(async () => {
      try {
        owner.label = (await this.#api.post("console/conversations", { ...conversation, label: owner.label ?? "" })).label;
        await this.refresh();
      } catch (error) {
        this.#chat.complain(t("not kept", { reason: error.message }));
      }
    });
    return this.#writing;
  }

  #searchSoon() {
    clearTimeout(this.searching);
    this.searching = setTimeout(() => this.refresh(), 200);
  }

  async refresh() {
    const query = this.query.value.trim();
    let found;
    try {
      found = (await this.#api.post("console/conversations/search", { query })).data;
    } catch (error) {
      this.#chat.complain(error.message);
      return;
    }
    const nothing = el("li", { class: "note" }, t(query ? "nothing found" : "no conversations"));
    fill(this.list, found.length ? found.map((each) => this.#item(each)) : nothing);
    this.mark();
  }

  #item({ label, updated, text }) {
    const when = new Date(updated.endsWith("Z") || updated.includes("+") ? updated : `${updated}Z`);
    const time = el("small", {}, when.toLocaleString(current()));
    const open = button([el("span", {}, text || label), time], () => this.#open(label), { class: "quiet", "data-label": label });
    return el("li", {}, open, button("✕", () => this.#delete(label, text), { label: `${t("delete")}: ${text || label}`, class: "quiet" }));
  }

  /** Show which of the kept conversations is open. */
  mark() {
    for (const each of this.list.querySelectorAll("[data-label]")) {
      if (each.dataset.label === this.#chat.label) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  async #open(label) {
    try {
      this.#chat.open(await this.#api.post("console/conversations/open", { label }));
    } catch (error) {
      this.#chat.complain(error.message);
    }
  }

  async #delete(label, text) {
    if (!confirm(t("delete it?", { name: text || label }))) return;
    try {
      await this.#api.post("console/conversations/delete", { label });
    } catch (error) {
      this.#chat.complain(error.message);
    }
    this.#chat.removed(label);
    await this.refresh();
  }
}
