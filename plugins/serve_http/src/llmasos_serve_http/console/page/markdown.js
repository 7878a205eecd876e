// Markdown of a model's answer, drawn while it arrives. Text only ever becomes text nodes, links lead to http, https and mailto alone, and
// images are shown as links, because loading one would tell its server about the reader.

import { button, el, wide } from "./dom.js";
import { t } from "./words.js";

/** Milliseconds between two drawings of a stream. */
const PAUSE = 100;
/** A paragraph of more characters is shown as it is. */
const LONGEST = 20_000;
/** Quotes and lists within one another, beyond which they are shown as text. */
const DEEPEST = 16;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(?=\S)|[ \t]*$)/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** A text that grows. Blocks that can change no more are drawn once; only the last one is drawn again as it grows. */
export class Markdown {
  #container;
  #rest = "";
  #open = [];
  #timer = null;

  constructor(container) {
    this.#container = container;
  }

  /** Add a piece; it is drawn within a tenth of a second. */
  append(text) {
    this.#rest += text;
    this.#timer ??= setTimeout(() => this.#draw(), PAUSE);
  }

  /** Draw what has arrived now. */
  end() {
    clearTimeout(this.#timer);
    this.#draw();
  }

  #draw() {
    this.#timer = null;
    // Only whole lines tell where a block ends: "-" may become an item, or a rule.
    const whole = this.#rest.lastIndexOf("\n") + 1;
    const lines = this.#rest.slice(0, whole).split("\n");
    const settled = blocks(lines).slice(0, -1);
    if (settled.length) {
      this.#clear();
      this.#container.append(...settled.map((block) => block.node));
      const read = lines.slice(0, settled.at(-1).end);
      this.#rest = this.#rest.slice(read.reduce((sum, line) => sum + line.length + 1, 0));
    }
    this.#clear();
    this.#open = blocks(this.#rest.split("\n")).map((block) => block.node);
    this.#container.append(...this.#open);
  }

  #clear() {
    for (const node of this.#open) node.remove();
    this.#open = [];
  }
}

/** The nodes of a whole text. */
export function rendered(text) {
  return blocks(text.split("\n")).map((block) => block.node);
}

/** The blocks of lines: each a node, and the number of the line after it. */
function blocks(lines, depth = 0) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = blockAt(lines, at, depth);
    found.push(block);
    at = block.end;
  }
  return found;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  // The page's own headings are the first two levels.
  if (heading) return { node: el(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2] ?? "")), end: at + 1 };
  if (RULE.test(line)) return { node: el("hr"), end: at + 1 };
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (ITEM.test(line)) return list(lines, at, depth);
  }
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at, depth);
}

/** Whether a paragraph ends before this line. */
function begins(lines, at, depth) {
  const line = lines[at];
  if (!line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  return (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line))) || isTable(lines, at);
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !begins(lines, end, depth)) end += 1;
  return { node: el("p", {}, inline(lines.slice(at, end).join("\n"))), end };
}

function code(lines, at, [, mark, language]) {
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], mark)) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  const copy = button(t("copy"), async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = t("copied");
    setTimeout(() => (copy.textContent = t("copy")), 2000);
  });
  const head = el("figcaption", {}, el("span", {}, language || t("code")), copy);
  const body = el("pre", { tabindex: 0 }, el("code", {}, text));
  return { node: el("figure", { class: "code" }, head, body), end: Math.min(lines.length, end + 1) };
}

function closes(line, mark) {
  const found = line.trim();
  return found.length >= mark.length && found === mark[0].repeat(found.length) && !line.startsWith("    ");
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { node: el("blockquote", {}, nodes(inside, depth)), end };
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = first[2].length > 1;
  const node = ordered ? el("ol", { start: Number.parseInt(first[2], 10) }) : el("ul");
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    // Another mark begins another list, and a rule is no item.
    if (!item || item[2].at(-1) !== first[2].at(-1) || RULE.test(lines[end])) break;
    const width = item[1].length + item[2].length + Math.min(item[3]?.length ?? 1, 4);
    const content = [lines[end].slice(width)];
    end += 1;
    while (end < lines.length && belongs(lines, end, width, depth)) {
      content.push(lines[end].slice(Math.min(width, lines[end].search(/\S|$/))));
      end += 1;
    }
    node.append(el("li", {}, tight(nodes(content, depth))));
    while (end < lines.length && !lines[end].trim()) end += 1;
  }
  return { node, end };
}

/** Whether a line is part of the item whose content is indented so far. */
function belongs(lines, at, width, depth) {
  const line = lines[at];
  if (line.trim()) return line.search(/\S/) >= width || (lines[at - 1].trim() && !begins(lines, at, depth + 1));
  const next = lines.slice(at).find((each) => each.trim());
  return next !== undefined && next.search(/\S/) >= width;
}

/** An item's content, whose only paragraph needs no element of its own. */
function tight(found) {
  const paragraphs = found.filter((node) => node.tagName === "P");
  return paragraphs.length === 1 && found[0] === paragraphs[0] ? [...paragraphs[0].childNodes, ...found.slice(1)] : found;
}

function nodes(lines, depth) {
  return blocks(lines, depth + 1).map((block) => block.node);
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !next.includes("-") || !DIVIDER.test(next)) return false;
  return cells(lines[at]).length === cells(next).length;
}

function table(lines, at) {
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "right") : "left"));
  const row = (line, tag) => {
    const found = cells(line);
    return el("tr", {}, sides.map((side, place) => el(tag, { class: side, scope: tag === "th" && "col" }, inline(found[place] ?? ""))));
  };
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  const node = el("table", {}, el("thead", {}, row(lines[at], "th")), el("tbody", {}, body));
  return { node: wide(t("table"), node), end };
}

function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

const LINK = /!?\[([^[\]]*)\]\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\))*)>?(?:\s+"[^"]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]+/y;
const WORD = /[\p{L}\p{N}_]/u;

/** The nodes of a line of text. */
function inline(text) {
  if (text.length > LONGEST) return [text];
  const found = [];
  let plain = "";
  const push = (node) => {
    if (plain) found.push(plain);
    plain = "";
    if (node) found.push(node);
  };
  for (let at = 0; at < text.length; ) {
    const special = specialAt(text, at);
    if (special) {
      push(special.node);
      at = special.end;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  push();
  return found;
}

/** The element that begins here: its node and where it ends; null where none does. */
function specialAt(text, at) {
  switch (text[at]) {
    case "`":
      return codeSpan(text, at);
    case "!":
    case "[":
      return link(text, at);
    case "h":
      return at && WORD.test(text[at - 1]) ? null : address(text, at);
    case "*":
      return text[at + 1] === "*" ? marked(text, at, "**", "strong") : marked(text, at, "*", "em");
    case "_":
      if (at && WORD.test(text[at - 1])) return null;
      return text[at + 1] === "_" ? marked(text, at, "__", "strong") : marked(text, at, "_", "em");
    case "~":
      return text[at + 1] === "~" ? marked(text, at, "~~", "s") : null;
    case "\\":
      return text[at + 1] === "\n" ? { node: el("br"), end: at + 2 } : null;
    case " ":
      return text.startsWith("  \n", at) ? { node: el("br"), end: at + 3 } : null;
    default:
      return null;
  }
}

function codeSpan(text, at) {
  let width = 1;
  while (text[at + width] === "`") width += 1;
  const mark = "`".repeat(width);
  for (let end = text.indexOf(mark, at + width); end >= 0; end = text.indexOf(mark, end)) {
    let found = width;
    while (text[end + found] === "`") found += 1;
    if (found === width) {
      const inside = text.slice(at + width, end).replaceAll("\n", " ");
      const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
      return { node: el("code", {}, padded ? inside.slice(1, -1) : inside), end: end + width };
    }
    end += found;
  }
  return { node: document.createTextNode(mark), end: at + width };
}

function marked(text, at, mark, tag) {
  const start = at + mark.length;
  if (!text[start] || /\s/.test(text[start])) return null;
  for (let end = text.indexOf(mark, start + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    const wordly = mark[0] === "_" && WORD.test(text[end + mark.length] ?? " ");
    const longer = mark === "*" && (text[end + 1] === "*" || text[end - 1] === "*");
    if (!/\s/.test(text[end - 1]) && text[end - 1] !== "\\" && !wordly && !longer) {
      return { node: el(tag, {}, inline(text.slice(start, end))), end: end + mark.length };
    }
  }
  return { node: document.createTextNode(mark), end: start };
}

function link(text, at) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  if (!found) return null;
  const [whole, label, target] = found;
  return { node: leading(target, inline(label || target)), end: at + whole.length };
}

function address(text, at) {
  ADDRESS.lastIndex = at;
  const found = ADDRESS.exec(text);
  if (!found) return null;
  let target = found[0].replace(/[.,;:!?*_~]+$/, "");
  while (target.endsWith(")") && target.split(")").length > target.split("(").length) target = target.slice(0, -1);
  return { node: leading(target, [target]), end: at + target.length };
}

/** A link, where it leads to a place that a link of a stranger's text may lead to; else its text. */
function leading(target, label) {
  let scheme = "";
  try {
    scheme = new URL(target).protocol;
  } catch {
    // Relative addresses would lead into this server.
  }
  if (!["http:", "https:", "mailto:"].includes(scheme)) return el("span", {}, label);
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}
