// Named sets of a system prompt and options, kept in this browser.

import { button, el, fill } from "./dom.js";
import { t } from "./words.js";

const STORED = "llmasos.templates";

/** A row that saves the settings of now under a name, and takes saved ones. `take` gets the settings of the template that was chosen. */
export function templates(settings, take) {
  const list = el("select", { "aria-label": t("template") });
  const name = el("input", { "aria-label": t("template name"), placeholder: t("template name"), maxlength: 60, autocomplete: "off" });
  const draw = (chosen = "") => {
    const names = Object.keys(stored()).sort();
    fill(list, el("option", { value: "" }, t("no template")), names.map((each) => el("option", { value: each, prop: { selected: each === chosen } }, each)));
    remove.disabled = !list.value;
  };
  const remove = button(t("delete"), () => {
    const { [list.value]: _, ...others } = stored();
    keep(others);
    draw();
  });
  const save = button(t("save"), () => {
    if (!name.value.trim()) return name.focus();
    keep({ ...stored(), [name.value.trim()]: settings() });
    draw(name.value.trim());
    name.value = "";
  });
  list.addEventListener("change", () => {
    remove.disabled = !list.value;
    if (list.value) take(stored()[list.value] ?? {});
  });
  draw();
  return el("div", { class: "row templates" }, list, remove, name, save);
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

function keep(all) {
  localStorage.setItem(STORED, JSON.stringify(all));
}
