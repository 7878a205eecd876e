// A conversation as a tree: an edited message and a retried answer are branches beside those before, and nothing that was said is lost.

import { IMAGE } from "./attachments.js";

/**
 * One message; `images`: data: URLs. `parent` is null for the root, which holds nothing. With `owner`, this branch is kept on the server apart
 * from the others, as `label`, a name or number; null: not yet.
 */
export class Message {
  constructor(role, content, parent) {
    Object.assign(this, { role, content, parent, images: [], reasoning: "", calls: [], usage: null, failure: "", finish: "" });
    Object.assign(this, { owner: parent === null, label: null });
    this.children = [];
    this.chosen = -1;
    parent?.children.push(this);
    if (parent) parent.chosen = parent.children.length - 1;
  }

  /** Take a piece of a call of a tool, as `asking.js` gives it. */
  called({ key, arguments: text = "", ...more }) {
    let call = this.calls.find((each) => each.key === key);
    if (!call) this.calls.push((call = { key, arguments: "" }));
    Object.assign(call, more);
    call.arguments += text;
  }

  /** A call is told again under another key. */
  forget(key) {
    this.calls = this.calls.filter((call) => call.key !== key);
  }

  /** Place among those that were said instead, from 0. */
  get place() {
    return this.parent.children.indexOf(this);
  }
}

/** Texts of a call of a tool: what is called, what came back, or why it failed. */
const CALL = ["name", "arguments", "result", "error"];

/** Messages from the first to the one shown last, of those chosen at each branch. */
export class Conversation {
  constructor(messages = []) {
    this.root = new Message("", "", null);
    let last = this.root;
    for (const { role, content, images = [] } of messages) last = Object.assign(new Message(role, content, last), { images });
  }

  get shown() {
    const found = [];
    for (let node = this.root; node.chosen >= 0; found.push(node)) node = node.children[node.chosen];
    return found;
  }

  get last() {
    return this.shown.at(-1) ?? this.root;
  }

  /** What the shown branch is kept by: the last of its messages that is an owner. */
  get owner() {
    return this.shown.findLast((message) => message.owner) ?? this.root;
  }

  get label() {
    return this.owner.label;
  }

  /** What the model gets: all before `message`, and itself. */
  upTo(message) {
    const found = [];
    for (let node = message; node.parent; node = node.parent) found.unshift({ role: node.role, content: content(node) });
    return found;
  }

  /** A plain object for a file: the shown branch, and every other one. */
  exported() {
    const plain = (node) => ({
      role: node.role,
      content: node.content,
      ...(node.images.length && { images: node.images }),
      ...(node.reasoning && { reasoning: node.reasoning }),
      ...(node.calls.length && { calls: node.calls.map(texts) }),
      chosen: node.chosen,
      answers: node.children.map(plain),
    });
    return { format: "llmasos-conversation", version: 1, chosen: this.root.chosen, answers: this.root.children.map(plain) };
  }

  /** The conversation that `exported` made a file of. Throws where it is none. */
  static imported(data) {
    if (data?.format !== "llmasos-conversation" || data.version !== 1) throw new Error("format");
    const made = new Conversation();
    const grow = (parent, { answers, chosen }) => {
      for (const each of answers) {
        if (!["user", "assistant"].includes(each.role) || typeof each.content !== "string") throw new Error("message");
        const node = new Message(each.role, each.content, parent);
        node.images = list(each.images, (url) => typeof url === "string" && IMAGE.test(url));
        node.reasoning = typeof each.reasoning === "string" ? each.reasoning : "";
        node.calls = list(each.calls, (call) => CALL.every((name) => typeof (call?.[name] ?? "") === "string")).map(texts);
        grow(node, each);
      }
      if (!Number.isInteger(chosen) || chosen >= answers.length || (answers.length && chosen < 0)) throw new Error("branch");
      parent.chosen = chosen;
    };
    grow(made.root, data);
    return made;
  }
}

/** The content of a message as a model is asked it: parts where there are images, which come first. */
function content(message) {
  if (!message.images.length) return message.content;
  const images = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return message.content ? [...images, { type: "text", text: message.content }] : images;
}

/** A list of a file, or none. Throws where one of it is not as it must be. */
function list(given = [], good) {
  if (!Array.isArray(given) || !given.every(good)) throw new Error("list");
  return given;
}

/** What a file holds of a call. */
function texts(call) {
  return Object.fromEntries(CALL.filter((name) => typeof call[name] === "string").map((name) => [name, call[name]]));
}
