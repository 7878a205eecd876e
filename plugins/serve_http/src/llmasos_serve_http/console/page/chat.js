// Chat: a conversation with a model, the conversations that are kept, and what each answer took.

import { announce, button, download, el, field, fill } from "./dom.js";
import { Conversation, Message } from "./conversation.js";
import { Markdown, rendered } from "./markdown.js";
import { templates } from "./templates.js";
import { current, t } from "./words.js";

const SETTINGS = "llmasos.settings";
const MODEL = "llmasos.model";
/** Option of a request -> how it is typed in. */
const OPTIONS = {
  temperature: { min: 0, max: 2, step: 0.1 },
  top_p: { min: 0.05, max: 1, step: 0.05 },
  max_tokens: { min: 1, step: 1 },
  seed: { min: 0, step: 1 },
};

export default class Chat {
  #api;
  #session;
  #conversation = new Conversation();
  #answering = null;
  #settings = JSON.parse(sessionStorage.getItem(SETTINGS) ?? "{}");
  #kept = [];
  #keeping = Promise.resolve();

  constructor(place, api, session) {
    this.#api = api;
    this.#session = session;
    this.models = el("select", { "aria-label": t("model"), on: { change: () => sessionStorage.setItem(MODEL, this.models.value) } });
    this.log = el("div", { class: "log", role: "log", "aria-label": t("chat"), "aria-live": "off" });
    this.list = el("ul", { class: "kept" });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.input = el("textarea", {
      rows: 1,
      "aria-label": t("message"),
      placeholder: t("welcome"),
      on: { keydown: (event) => this.#typed(event), input: () => this.#grow() },
    });
    this.go = el("button", { class: "primary" }, t("send"));
    const form = el("form", { class: "ask", on: { submit: (event) => this.#submit(event) } }, this.input, this.go);
    place.append(this.#side(), el("section", { class: "talk" }, this.#head(), this.log, this.trouble, form));
    this.#drawModels();
    this.#draw();
    this.#refreshKept();
    this.input.focus();
  }

  close() {
    this.#answering?.abort();
  }

  // Parts of the view

  #head() {
    return el(
      "div",
      { class: "row" },
      this.models,
      button(t("new chat"), () => this.#show(new Conversation())),
      button(t("export"), () => this.#export()),
      this.#importer(),
      this.#panel(),
    );
  }

  #side() {
    if (!this.#session.keeps) return null;
    this.query = el("input", { type: "search", placeholder: t("search"), "aria-label": t("search"), on: { input: () => this.#searchSoon() } });
    const details = el("details", { class: "side", open: matchMedia("(min-width: 56rem)").matches }, el("summary", {}, t("conversations")));
    details.append(this.query, this.list);
    return details;
  }

  #panel() {
    const system = el("textarea", { rows: 3, prop: { value: this.#settings.system ?? "" } });
    system.addEventListener("input", () => this.#set("system", system.value));
    const inputs = { system };
    const numbers = Object.entries(OPTIONS).map(([name, bounds]) => {
      const input = el("input", { type: "number", inputmode: "decimal", ...bounds, prop: { value: this.#settings[name] ?? "" } });
      inputs[name] = input;
      input.addEventListener("input", () => this.#set(name, input.value === "" || !input.checkValidity() ? undefined : input.valueAsNumber));
      return field(t(name), input, t(`${name} hint`));
    });
    const take = (settings) => {
      for (const [name, input] of Object.entries(inputs)) {
        input.value = settings[name] ?? "";
        this.#set(name, settings[name]);
      }
    };
    const saved = templates(() => ({ ...this.#settings }), take);
    const card = el("div", { class: "card" }, saved, field(t("system prompt"), system, t("system hint")), numbers);
    const details = el("details", { class: "settings" }, el("summary", {}, t("settings")), card);
    // It lies above the conversation, and goes when what is below is used.
    details.addEventListener("keydown", (event) => {
      if (event.key === "Escape") details.open = false;
    });
    this.input.addEventListener("focus", () => (details.open = false));
    return details;
  }

  #importer() {
    const file = el("input", { type: "file", accept: "application/json", class: "unseen", tabindex: -1, "aria-label": t("import") });
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      file.value = "";
      try {
        this.#show(Conversation.imported(JSON.parse(await chosen.text())));
      } catch {
        this.#complain(t("import failed", { name: chosen.name }));
      }
    });
    return [button(t("import"), () => file.click()), file];
  }

  #drawModels() {
    const chats = this.#session.models.filter((model) => model.features.includes("chat"));
    const name = (model) => (model.state === "loaded" ? model.name : `${model.name} (${t(model.state)})`);
    fill(this.models, chats.map((model) => el("option", { value: model.name }, name(model))));
    const stored = sessionStorage.getItem(MODEL);
    if (chats.some((model) => model.name === stored)) this.models.value = stored;
  }

  #set(name, value) {
    this.#settings[name] = value;
    sessionStorage.setItem(SETTINGS, JSON.stringify(this.#settings));
  }

  // The conversation

  #show(conversation) {
    this.#answering?.abort();
    this.#conversation = conversation;
    this.#complain("");
    this.#draw();
    this.#mark();
    this.input.focus();
  }

  #draw() {
    fill(this.log, this.#conversation.shown.map((message) => this.#drawn(message)));
    this.log.lastElementChild?.scrollIntoView({ block: "end" });
  }

  /** A message with what can be done to it. */
  #drawn(message) {
    const body = el("div", { class: "body" }, message.role === "user" ? el("p", { class: "said" }, message.content) : rendered(message.content));
    const who = el("h2", {}, t(message.role === "user" ? "you" : "assistant"));
    const parts = [this.#reasoning(message), ...message.calls.map((call) => this.#call(call)), body];
    return el("article", { class: message.role }, who, parts, this.#failure(message), this.#foot(message));
  }

  #reasoning(message) {
    if (!message.reasoning) return null;
    return el("details", { class: "reasoning" }, el("summary", {}, t("reasoning")), el("p", { class: "said" }, message.reasoning));
  }

  #call(call) {
    return el("details", { class: "tool" }, el("summary", {}, t("call of", { name: call.name })), el("pre", { tabindex: 0 }, call.arguments));
  }

  #failure(message) {
    if (message.failure) return el("p", { class: "trouble" }, message.failure);
    return message.finish === "length" ? el("p", { class: "note" }, t("cut")) : null;
  }

  #foot(message) {
    const speed = message.usage && el("span", { class: "note" }, t("speed", message.usage));
    const act =
      message.role === "user"
        ? button(t("edit"), () => this.#edit(message), { class: "quiet" })
        : [button(t("copy"), () => navigator.clipboard.writeText(message.content), { class: "quiet" }), this.#retry(message)];
    return el("footer", { class: "row" }, this.#branches(message), act, speed);
  }

  #retry(message) {
    return button(t("retry"), () => this.#answer(message.parent), { class: "quiet" });
  }

  #branches(message) {
    const count = message.parent.children.length;
    if (count < 2) return null;
    const to = (place) => () => {
      if (this.#answering) return;
      message.parent.chosen = place;
      this.#draw();
      this.#keep();
    };
    const at = message.place;
    return el(
      "span",
      { class: "branches" },
      button("‹", to(at - 1), { label: t("earlier branch"), class: "quiet", disabled: at === 0 }),
      el("span", {}, t("branch", { number: at + 1, count })),
      button("›", to(at + 1), { label: t("later branch"), class: "quiet", disabled: at === count - 1 }),
    );
  }

  #edit(message) {
    if (this.#answering) return;
    const text = el("textarea", { rows: 4, "aria-label": t("edit"), prop: { value: message.content } });
    const send = () => {
      if (!text.value.trim()) return;
      // What was said before is another branch, and another kept conversation.
      this.#answer(Object.assign(new Message("user", text.value, message.parent), { owner: true }));
    };
    const article = this.log.children[this.#conversation.shown.indexOf(message)];
    fill(
      article,
      el("h2", {}, t("you")),
      text,
      el("footer", { class: "row" }, button(t("save and send"), send, { class: "primary" }), button(t("cancel"), () => this.#draw())),
    );
    text.focus();
  }

  // Asking

  #typed(event) {
    // Enter also confirms what an input method proposes; that sends nothing.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.input.form.requestSubmit();
    }
  }

  #grow() {
    this.input.style.blockSize = "auto";
    this.input.style.blockSize = `${Math.min(this.input.scrollHeight + 2, innerHeight / 3)}px`;
  }

  #submit(event) {
    event.preventDefault();
    if (this.#answering) {
      this.#answering.abort();
    } else if (this.input.value.trim()) {
      const message = new Message("user", this.input.value, this.#conversation.last);
      this.input.value = "";
      this.#grow();
      this.#answer(message);
    }
  }

  /** Have the model answer what `message` and those before it say. */
  async #answer(message) {
    if (this.#answering) return;
    const answer = new Message("assistant", "", message);
    this.#answering = new AbortController();
    this.#complain("");
    this.#draw();
    this.#busy(true);
    const drawing = new Drawing(this.log.lastElementChild, () => this.#toEnd());
    try {
      await this.#read(message, answer, drawing);
      announce(t("answered"));
    } catch (error) {
      const stopped = error.name === "AbortError";
      answer.failure = stopped ? t("stopped") : error.message;
    }
    drawing.end();
    this.#answering = null;
    this.#busy(false);
    this.#redraw(answer);
    await this.#keep();
  }

  async #read(message, answer, drawing) {
    const { system, ...options } = this.#settings;
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...this.#conversation.upTo(message)];
    const body = { model: this.models.value, messages, stream_options: { include_usage: true }, ...options };
    const began = performance.now();
    let first = null;
    for await (const chunk of this.#api.stream("v1/chat/completions", body, this.#answering.signal)) {
      const [choice] = chunk.choices;
      const delta = choice?.delta ?? {};
      if (first === null && (delta.content || delta.reasoning_content || delta.tool_calls)) first = performance.now();
      if (delta.content) answer.content += delta.content;
      if (delta.reasoning_content) answer.reasoning += delta.reasoning_content;
      for (const call of delta.tool_calls ?? []) addCall(answer.calls, call);
      answer.finish = choice?.finish_reason ?? answer.finish;
      if (chunk.usage) answer.usage = measured(chunk.usage.completion_tokens, began, first, performance.now());
      drawing.take(delta);
    }
  }

  /** Draw a finished answer with its foot. */
  #redraw(answer) {
    const place = this.#conversation.shown.indexOf(answer);
    if (place >= 0) this.log.children[place]?.replaceWith(this.#drawn(answer));
    this.#toEnd();
  }

  #busy(on) {
    this.go.textContent = t(on ? "stop" : "send");
    this.go.classList.toggle("stop", on);
    if (on) announce(t("answering"));
  }

  #toEnd() {
    // Who has scrolled up reads there.
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    if (scrollHeight - scrollTop - clientHeight < 200) this.log.lastElementChild?.scrollIntoView({ block: "end" });
  }

  #complain(sentence) {
    this.trouble.textContent = sentence;
    this.trouble.hidden = !sentence;
  }

  #export() {
    const name = `conversation-${this.#conversation.label ?? "new"}.json`;
    download(name, "application/json", JSON.stringify(this.#conversation.exported(), null, 2));
  }

  // What is kept

  async #keep() {
    if (!this.#session.keeps) return;
    const { owner, shown } = this.#conversation;
    const messages = shown.filter((message) => message.content).map(({ role, content }) => ({ role, content }));
    const body = { model: this.models.value, system: this.#settings.system ?? "", messages };
    // One after the other: what is kept has its label only once that was answered.
    this.#keeping = this.#keeping.then(async () => {
      try {
        owner.label = (await this.#api.post("console/conversations", { ...body, label: owner.label })).label;
        await this.#refreshKept();
      } catch (error) {
        this.#complain(t("not kept", { reason: error.message }));
      }
    });
    await this.#keeping;
  }

  #searchSoon() {
    clearTimeout(this.searching);
    this.searching = setTimeout(() => this.#refreshKept(), 200);
  }

  async #refreshKept() {
    if (!this.#session.keeps) return;
    const query = this.query.value.trim();
    try {
      this.#kept = (await this.#api.post("console/conversations/search", { query })).data;
    } catch (error) {
      this.#complain(error.message);
      return;
    }
    const nothing = el("li", { class: "note" }, t(query ? "nothing found" : "no conversations"));
    fill(this.list, this.#kept.length ? this.#kept.map((each) => this.#keptItem(each)) : nothing);
    this.#mark();
  }

  #keptItem({ label, updated, text }) {
    const when = new Date(updated.endsWith("Z") || updated.includes("+") ? updated : `${updated}Z`);
    const time = el("small", {}, when.toLocaleString(current()));
    const open = button([el("span", {}, text || label), time], () => this.#open(label), { class: "quiet", "data-label": label });
    return el("li", {}, open, button("✕", () => this.#delete(label, text), { label: `${t("delete")}: ${text || label}`, class: "quiet" }));
  }

  /** Show which of the kept conversations is open. */
  #mark() {
    for (const each of this.list.querySelectorAll("[data-label]")) {
      if (each.dataset.label === this.#conversation.label) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  async #open(label) {
    try {
      const found = await this.#api.post("console/conversations/open", { label });
      const conversation = new Conversation(found.messages);
      conversation.root.label = found.label;
      this.#show(conversation);
    } catch (error) {
      this.#complain(error.message);
    }
  }

  async #delete(label, text) {
    if (!confirm(t("delete it?", { name: text || label }))) return;
    try {
      await this.#api.post("console/conversations/delete", { label });
    } catch (error) {
      this.#complain(error.message);
    }
    if (this.#conversation.label === label) this.#show(new Conversation());
    await this.#refreshKept();
  }
}

/** An answer while it arrives. */
class Drawing {
  #article;
  #body;
  #markdown;
  #clock;
  #reasoning = null;
  #calls = new Map();
  #began = Date.now();

  constructor(article, moved) {
    this.#article = article;
    this.#body = article.querySelector(".body");
    this.#markdown = new Markdown(this.#body);
    article.querySelector("footer").replaceChildren();
    article.setAttribute("aria-busy", "true");
    this.wait = el("p", { class: "note" });
    article.append(this.wait);
    this.#tick();
    this.#clock = setInterval(() => {
      this.#tick();
      moved();
    }, 250);
  }

  /** A piece of the stream. */
  take({ content, reasoning_content: reasoning, tool_calls: calls = [] }) {
    if (content || reasoning || calls.length) this.wait.hidden = true;
    if (content) this.#markdown.append(content);
    if (reasoning) this.#reason(reasoning);
    for (const call of calls) this.#call(call);
  }

  end() {
    clearInterval(this.#clock);
    this.#markdown.end();
    this.#article.removeAttribute("aria-busy");
    this.wait.remove();
  }

  #tick() {
    this.wait.textContent = t("waiting", { seconds: ((Date.now() - this.#began) / 1000).toFixed(0) });
  }

  #reason(text) {
    if (!this.#reasoning) {
      this.#reasoning = el("p", { class: "said" });
      this.#body.before(el("details", { class: "reasoning" }, el("summary", {}, t("reasoning")), this.#reasoning));
    }
    this.#reasoning.append(text);
  }

  #call({ index, function: { name, arguments: text = "" } }) {
    if (!this.#calls.has(index)) {
      const shown = el("pre", { tabindex: 0 });
      this.#calls.set(index, shown);
      this.#body.before(el("details", { class: "tool", open: true }, el("summary", {}, t("call of", { name })), shown));
    }
    this.#calls.get(index).append(text);
  }
}

function addCall(calls, { index, function: { name, arguments: text = "" } }) {
  calls[index] ??= { name, arguments: "" };
  calls[index].arguments += text;
}

/** What an answer took, as it is told. Times are of `performance.now`. */
function measured(tokens, began, first, now) {
  const rate = tokens > 1 && first !== null && now > first ? ((tokens - 1) / (now - first)) * 1000 : 0;
  return { tokens, rate: rate.toFixed(1), first: (((first ?? now) - began) / 1000).toFixed(2) };
}
