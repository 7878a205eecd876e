// Elements. Text only ever becomes text nodes: nothing here or elsewhere in the page parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `props`: `class`, `on` (event name -> listener), `prop` (DOM properties), anything else is an attribute; false and null leave
 * an attribute out. `children`: nodes or strings; null and false are left out.
 */
export function el(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === "prop") {
      Object.assign(node, value);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  add(node, children);
  return node;
}

/** Append nodes and strings, however nested. */
export function add(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** Replace all that a node holds. */
export function fill(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

/** A button with a text, which also is its name for assistive technology unless `label` says more. */
export function button(text, action, props = {}) {
  const { label = null, ...more } = props;
  return el("button", { type: "button", "aria-label": label, title: label, on: { click: action }, ...more }, text);
}

/** A labelled field. `hint`: what it means. */
export function field(label, input, hint = "") {
  const id = input.id || (input.id = unique("field"));
  const told = hint ? el("small", { id: `${id}-hint` }, hint) : null;
  if (told) input.setAttribute("aria-describedby", told.id);
  return el("div", { class: "field" }, el("label", { for: id }, label), input, told);
}

/** A table: a head of names, and rows of cells, each a text or nodes. */
export function table(names, rows) {
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, body));
}

/** What may be wider than the page: it scrolls on its own, by the keyboard too. `more`: further classes. */
export function wide(label, content = null, more = "") {
  return el("div", { class: `wide ${more}`.trim(), tabindex: 0, role: "group", "aria-label": label }, content);
}

let count = 0;
/** An id that no other element has. */
export function unique(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/** Offer a text as a file. */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

let pending = null;
/** Tell assistive technology, at most once a second: the newest message wins. */
export function announce(text) {
  if (pending === null) {
    setTimeout(() => {
      document.getElementById("announcer").textContent = pending;
      pending = null;
    }, 1000);
  }
  pending = text;
}
