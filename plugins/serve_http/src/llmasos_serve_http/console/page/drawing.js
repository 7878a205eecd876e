// An answer while it arrives, and the calls of tools in it.

import { announce, button, el } from "./dom.js";
import { Markdown } from "./markdown.js";
import { t } from "./words.js";

/** An answer while it arrives. */
export class Drawing {
  #article;
  #body;
  #markdown;
  #clock;
  #reasoning = null;
  #calls = new Map();
  #began = Date.now();
  #phase;
  #prefill = null;
  #meter = el("progress", { "aria-label": t("prompt read"), hidden: true });
  #told = el("span");
  #quarters = 0;

  /** `phase`: what the answer waits for before any of its prompt is computed, as a name of `words.js`. */
  constructor(article, moved, phase) {
    this.#phase = phase;
    this.#article = article;
    this.#body = article.querySelector(".body");
    this.#markdown = new Markdown(this.#body);
    article.querySelector("footer").replaceChildren();
    article.setAttribute("aria-busy", "true");
    this.wait = el("p", { class: "note" }, this.#told, this.#meter);
    article.append(this.wait);
    this.#tick();
    this.#clock = setInterval(() => {
      this.#tick();
      moved();
    }, 250);
  }

  /** A piece of the answer, as `asking.js` gives it. */
  take({ content, reasoning, call, prefill }) {
    if (prefill) this.#read(prefill);
    if (content || reasoning || call) this.wait.hidden = true;
    if (content) this.#markdown.append(content);
    if (reasoning) this.#reason(reasoning);
    if (call) this.#call(call);
  }

  /** Ask whether a call may be run; true or false once the user has said. Rejects where the answer is stopped before. */
  async confirmed(key, signal) {
    const call = this.#calls.get(key);
    const said = await call.confirmed(signal);
    call.node.remove(); // it is told again, as it is run or refused
    return said;
  }

  end() {
    clearInterval(this.#clock);
    this.#markdown.end();
    this.#article.removeAttribute("aria-busy");
    this.wait.remove();
  }

  #tick() {
    const seconds = ((Date.now() - this.#began) / 1000).toFixed(0);
    this.#told.textContent = this.#prefill ? t("reading", { ...this.#prefill, seconds }) : t(this.#phase, { seconds });
  }

  /** So much of the prompt is computed. It is announced a quarter at a time. */
  #read({ processed, total }) {
    this.#prefill = { share: Math.floor((100 * processed) / total), total };
    this.#meter.hidden = false;
    this.#meter.max = total;
    this.#meter.value = processed;
    this.#tick();
    const quarters = Math.floor((4 * processed) / total);
    if (quarters > this.#quarters && processed < total) announce(t("reading said", this.#prefill));
    this.#quarters = quarters;
  }

  #reason(text) {
    if (!this.#reasoning) {
      this.#reasoning = el("p", { class: "said" });
      this.#body.before(el("details", { class: "reasoning" }, el("summary", {}, t("reasoning")), this.#reasoning));
    }
    this.#reasoning.append(text);
  }

  #call(call) {
    if (!this.#calls.has(call.key)) {
      this.#calls.set(call.key, new DrawnCall(call, true));
      this.#body.before(this.#calls.get(call.key).node);
    }
    this.#calls.get(call.key).take(call);
  }
}

/** A call of a tool: what is called, and what comes back. */
export class DrawnCall {
  #result = null;

  constructor({ name }, open = false) {
    this.arguments = el("pre", { tabindex: 0, role: "group", "aria-label": t("arguments") });
    this.node = el("details", { class: "tool", open }, el("summary", {}, t("call of", { name })), this.arguments);
  }

  confirmed(signal) {
    return new Promise((done, failed) => {
      const stopped = () => failed(signal.reason);
      const say = (said) => () => {
        signal.removeEventListener("abort", stopped);
        done(said);
      };
      signal.addEventListener("abort", stopped);
      const allow = button(t("allow"), say(true), { class: "primary" });
      this.node.append(el("div", { class: "row", role: "group", "aria-label": t("to confirm") }, el("span", {}, t("to confirm")), allow, button(t("refuse"), say(false))));
      allow.focus();
    });
  }

  /** Another piece of its arguments, its result, or why it failed. */
  take({ arguments: text = "", result = null, error = null }) {
    this.arguments.append(text);
    if (result === null && error === null) return;
    this.#result ??= this.node.appendChild(el("pre", { tabindex: 0, role: "group", "aria-label": t("result") }));
    this.#result.classList.toggle("trouble", error !== null);
    this.#result.textContent = error ?? result;
  }
}

/** What an answer took, as it is told. Times are of `performance.now`. */
export function measured(tokens, began, first, now) {
  const rate = tokens > 1 && first !== null && now > first ? ((tokens - 1) / (now - first)) * 1000 : 0;
  return { tokens, rate: rate.toFixed(1), first: (((first ?? now) - began) / 1000).toFixed(2) };
}
