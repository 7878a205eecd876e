// Chat: a conversation with a model, the conversations that are kept, and what each answer took.

import { assisted, completion, decision } from "./asking.js";
import { Attachments, picture } from "./attachments.js";
import { Conversation, Message } from "./conversation.js";
import { add, announce, button, download, el, field, fill } from "./dom.js";
import { DrawnCall, Drawing, measured } from "./drawing.js";
import { Kept } from "./kept.js";
import { rendered } from "./markdown.js";
import { templates } from "./templates.js";
import { t } from "./words.js";

const SETTINGS = "llmasos.settings";
const MODEL = "llmasos.model";
const TOOLS = "llmasos.tools";
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
  #kept = null;
  #hidden = false;

  constructor(place, api, session) {
    this.#api = api;
    this.#session = session;
    this.models = el("select", { "aria-label": t("model"), on: { change: () => this.#choose() } });
    const useTools = () => {
      sessionStorage.setItem(TOOLS, this.tools.checked);
      this.#offerImages();
    };
    this.tools = el("input", { type: "checkbox", prop: { checked: sessionStorage.getItem(TOOLS) === "true" }, on: { change: useTools } });
    this.log = el("div", { class: "log", role: "log", "aria-label": t("chat"), "aria-live": "off" });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.input = el("textarea", {
      rows: 1,
      "aria-label": t("message"),
      placeholder: t("welcome"),
      on: { keydown: (event) => this.#typed(event), input: () => this.#grow() },
    });
    this.go = el("button", { class: "primary" }, t("send"));
    const talk = el("section", { class: "talk" });
    this.attached = new Attachments(talk, this.input, (sentence) => this.complain(sentence), () => this.#room());
    const { list, button: attach, file } = this.attached;
    const form = el("form", { class: "ask", on: { submit: (event) => this.#submit(event) } }, list, attach, file, this.input, this.go);
    if (session.keeps) this.#kept = new Kept(api, this);
    add(talk, [this.#head(), this.log, this.trouble, form]);
    add(place, [this.#kept?.place, talk]);
    this.#drawModels();
    this.#draw();
    this.#kept?.refresh();
    this.input.focus();
  }

  /** Another view may have been shown meanwhile, where models are loaded. */
  shown(on) {
    if (on && this.#hidden) this.#refreshModels();
    this.#hidden = !on;
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
      this.#session.assists && el("label", {}, this.tools, " ", t("tools")),
      button(t("new chat"), () => this.#show(new Conversation())),
      button(t("export"), () => this.#export()),
      this.#importer(),
      this.#panel(),
    );
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
        this.complain(t("import failed", { name: chosen.name }));
      }
    });
    return [button(t("import"), () => file.click()), file];
  }

  // Models

  #drawModels() {
    const chats = this.#session.models.filter((model) => model.features.includes("chat"));
    const name = (model) => (model.state === "loaded" ? model.name : `${model.name} (${t(model.state)})`);
    const chosen = this.models.value || sessionStorage.getItem(MODEL);
    fill(this.models, chats.map((model) => el("option", { value: model.name }, name(model))));
    if (chats.some((model) => model.name === chosen)) this.models.value = chosen;
    this.#offerImages();
  }

  /** What is loaded changes while the page is open, and whether a model reads images is known once it is loaded. */
  async #refreshModels() {
    try {
      this.#session.models = (await this.#api.get("console/session")).models;
    } catch {
      return; // what is asked next tells why
    }
    this.#drawModels();
  }

  #choose() {
    sessionStorage.setItem(MODEL, this.models.value);
    this.#offerImages();
  }

  #offerImages() {
    this.attached.offer(!this.#noImages);
  }

  /** Whether the server's assistant answers, with its tools. */
  get #assisted() {
    return this.#session.assists && this.tools.checked;
  }

  /** What an answer waits for first. The assistant does not tell how much of a prompt is computed. */
  get #phase() {
    if (this.#assisted) return "waiting";
    return this.#model?.state === "loaded" ? "queued" : "loading first";
  }

  get #model() {
    return this.#session.models.find((model) => model.name === this.models.value);
  }

  /** Why the model is shown no images; empty: it is. */
  get #noImages() {
    if (this.#assisted) return t("assistant reads text");
    const { name, state, features } = this.#model ?? { name: "", state: "", features: [] };
    if (features.includes("image")) return "";
    return t(state === "loaded" ? "reads text" : "not known yet", { name });
  }

  /** The same, and how much of a request the images of the conversation take. */
  #room() {
    const taken = this.#conversation.shown.flatMap((message) => message.images).reduce((sum, url) => sum + url.length, 0);
    return { reason: this.#noImages, taken, room: this.#session.max_body };
  }

  #set(name, value) {
    this.#settings[name] = value;
    sessionStorage.setItem(SETTINGS, JSON.stringify(this.#settings));
  }

  // The conversation

  #show(conversation) {
    this.#answering?.abort();
    this.#conversation = conversation;
    this.complain("");
    this.#draw();
    this.#kept?.mark();
    this.input.focus();
  }

  // What the list of kept conversations asks of the view

  get label() {
    return this.#conversation.label;
  }

  open({ label, messages }) {
    const conversation = new Conversation(messages);
    conversation.root.label = label;
    this.#show(conversation);
  }

  removed(label) {
    if (this.label === label) this.#show(new Conversation());
  }

  complain(sentence) {
    this.trouble.textContent = sentence;
    this.trouble.hidden = !sentence;
  }

  #draw() {
    fill(this.log, this.#conversation.shown.map((message) => this.#drawn(message)));
    this.log.lastElementChild?.scrollIntoView({ block: "end" });
  }

  /** A message with what can be done to it. */
  #drawn(message) {
    const said = message.role === "user" ? message.content && el("p", { class: "said" }, message.content) : rendered(message.content);
    const who = el("h2", {}, t(message.role === "user" ? "you" : "assistant"));
    const body = el("div", { class: "body" }, pictures(message), said);
    const parts = [this.#reasoning(message), ...message.calls.map((call) => this.#call(call)), body];
    return el("article", { class: message.role }, who, parts, this.#failure(message), this.#foot(message));
  }

  #reasoning(message) {
    if (!message.reasoning) return null;
    return el("details", { class: "reasoning" }, el("summary", {}, t("reasoning")), el("p", { class: "said" }, message.reasoning));
  }

  #call(call) {
    const drawn = new DrawnCall(call);
    drawn.take(call);
    return drawn.node;
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
      if (!text.value.trim() && !message.images.length) return;
      // What was said before is another branch, and another kept conversation.
      this.#answer(Object.assign(new Message("user", text.value, message.parent), { owner: true, images: message.images }));
    };
    const article = this.log.children[this.#conversation.shown.indexOf(message)];
    fill(
      article,
      el("h2", {}, t("you")),
      pictures(message),
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
    } else if (this.attached.urls.length && this.#noImages) {
      this.complain(this.#noImages);
    } else if (this.input.value.trim() || this.attached.urls.length) {
      const message = new Message("user", this.input.value, this.#conversation.last);
      message.images = this.attached.take();
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
    this.complain("");
    this.#draw();
    this.#busy(true);
    const drawing = new Drawing(this.log.lastElementChild, () => this.#toEnd(), this.#phase);
    try {
      let items = [];
      do {
        items = await this.#read(message, answer, drawing, items);
      } while (items.length);
      announce(t("answered"));
    } catch (error) {
      const stopped = error.name === "AbortError";
      answer.failure = stopped ? t("stopped") : error.message;
    }
    drawing.end();
    this.#answering = null;
    this.#busy(false);
    this.#redraw(answer);
    if (this.#model?.state !== "loaded") this.#refreshModels();
    await this.#keep();
  }

  /** Read an answer; gives the items with which the assistant goes on, where it waited to be told whether calls may be run. */
  async #read(message, answer, drawing, items) {
    const { signal } = this.#answering;
    const { system, ...options } = this.#settings;
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...this.#conversation.upTo(message)];
    const body = { model: this.models.value, messages, ...options };
    if (this.#assisted && !messages.every(({ content }) => typeof content === "string")) throw new Error(t("assistant reads text"));
    const pieces = this.#assisted ? assisted(this.#api, body, items, signal) : completion(this.#api, body, signal);
    const began = performance.now();
    const done = [...items];
    const waiting = [];
    let first = null;
    for await (const piece of pieces) {
      if (first === null && (piece.content || piece.reasoning || piece.call)) first = performance.now();
      answer.content += piece.content ?? "";
      answer.reasoning += piece.reasoning ?? "";
      if (piece.call) answer.called(piece.call);
      if (piece.call?.asks) waiting.push(piece.call.key);
      if (piece.item) done.push(piece.item);
      answer.finish = piece.finish ?? answer.finish;
      if (piece.tokens !== undefined) answer.usage = measured(piece.tokens, began, first, performance.now());
      drawing.take(piece);
    }
    for (const key of waiting) {
      announce(t("to confirm"));
      done.push(decision(key, await drawing.confirmed(key, signal)));
      answer.forget(key);
    }
    return waiting.length ? done : [];
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

  #export() {
    const name = `conversation-${this.#conversation.label ?? "new"}.json`;
    download(name, "application/json", JSON.stringify(this.#conversation.exported(), null, 2));
  }

  async #keep() {
    if (!this.#kept) return;
    const { owner, shown } = this.#conversation;
    const messages = shown
      .filter((message) => message.content || message.images.length)
      .map(({ role, content, images }) => ({ role, content, ...(images.length && { images }) }));
    await this.#kept.keep(owner, { model: this.models.value, system: this.#settings.system ?? "", messages });
  }
}

/** The images of a message. */
function pictures({ images }) {
  return images.length ? el("ul", { class: "pictures" }, images.map((url, place) => el("li", {}, picture(url, place)))) : null;
}
