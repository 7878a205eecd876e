// The page: who is signed in, and which view is shown.

import { Api } from "./api.js";
import { button, el, field, fill } from "./dom.js";
import { current, switchLanguage, t } from "./words.js";

const THEME = "llmasos.theme";
/** View -> its module, loaded when it is first shown, and what a user must be allowed to do. */
const VIEWS = {
  chat: { open: () => import("./chat.js"), needs: "use" },
  tasks: { open: () => import("./tasks.js"), needs: "use" },
  operate: { open: () => import("./operate.js"), needs: "inspect" },
};

const main = document.getElementById("main");
const bar = document.getElementById("bar");
const api = new Api();
let session = null;
/** View -> where it is and what draws it; kept while another one is shown, so that nothing begun is lost. */
const opened = new Map();

start();

function start() {
  document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? "";
  addEventListener("hashchange", show);
  enter();
}

/** Find out who asks; without a key that the server knows, ask for one. */
async function enter() {
  document.documentElement.lang = current();
  document.getElementById("skip").textContent = t("skip");
  try {
    session = await api.get("console/session");
    api.keep();
    drawBar();
    await show();
  } catch (error) {
    session = null;
    drawBar();
    signIn(error.status === 401 ? "" : t("unreachable", { reason: error.message }), error.status === 401 && api.key ? error.message : "");
  }
}

function drawBar() {
  const views = session ? Object.keys(VIEWS).filter((name) => session.permissions.includes(VIEWS[name].needs)) : [];
  const links = views.map((name) => el("a", { href: `#${name}`, id: `view-${name}` }, t(name)));
  const theme = button("◐", switchTheme, { label: t("theme"), class: "quiet" });
  const language = button(t("language"), changeLanguage, { class: "quiet", lang: current() === "en" ? "zh" : "en" });
  const leave = api.key && session ? button(t("sign out"), signOut, { class: "quiet" }) : null;
  const name = session ? el("span", { class: "who", title: t("signed in", { name: session.name }) }, session.name) : null;
  fill(bar, el("h1", {}, "LLMasOS"), el("nav", { "aria-label": t("views") }, links), el("div", { class: "tools" }, name, leave, language, theme));
}

/** Show the view that the address names; only names of views are looked at. */
async function show() {
  if (!session) return;
  const asked = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, asked) && session.permissions.includes(VIEWS[asked].needs) ? asked : "chat";
  for (const link of bar.querySelectorAll("nav a")) {
    if (link.id === `view-${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!opened.has(name)) {
    const { default: View } = await VIEWS[name].open();
    if (!opened.size) fill(main);
    const place = el("div", { class: `view ${name}` });
    main.append(place);
    opened.set(name, { place, view: new View(place, api, session) });
  }
  for (const [other, { place, view }] of opened) {
    place.hidden = other !== name;
    view.shown?.(other === name);
  }
}

/** Forget all views, and end what they do. */
function close() {
  for (const { view } of opened.values()) view.close();
  opened.clear();
  fill(main);
}

function signIn(trouble, refused) {
  close();
  const key = el("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const form = el(
    "form",
    {
      class: "card sign-in",
      on: {
        submit: (event) => {
          event.preventDefault();
          api.key = key.value.trim();
          enter();
        },
      },
    },
    el("h2", {}, t("sign in")),
    trouble ? el("p", { role: "alert" }, trouble) : el("p", {}, t("key needed")),
    refused && el("p", { role: "alert" }, refused),
    field(t("key"), key, t("key hint")),
    el("button", { class: "primary" }, t("sign in")),
  );
  main.append(form);
  key.focus();
}

function signOut() {
  api.forget();
  close();
  enter();
}

async function changeLanguage() {
  switchLanguage();
  close();
  await enter();
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem(THEME, next);
}
