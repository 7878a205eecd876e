// Tasks: a form for each, made of its JSON Schema, and many inputs at once from a table.

import { add, announce, button, download, el, field, fill, unique } from "./dom.js";
import { format, parse } from "./csv.js";
import { t } from "./words.js";

/** Rows of a table that are in progress at once. */
const AT_ONCE = 4;

export default class Tasks {
  #api;
  #session;
  #running = null;

  constructor(place, api, session) {
    this.#api = api;
    this.#session = session;
    this.names = el("ul", { class: "kept" });
    this.task = el("section", { class: "talk" });
    place.append(el("nav", { class: "side", "aria-label": t("tasks") }, el("h2", {}, t("tasks")), this.names), this.task);
    this.#list();
  }

  close() {
    this.#running?.abort();
  }

  async #list() {
    let found;
    try {
      found = (await this.#api.get("v1/tasks")).data;
    } catch (error) {
      fill(this.task, el("p", { class: "trouble", role: "alert" }, error.message));
      return;
    }
    if (!found.length) {
      fill(this.task, el("p", { class: "note" }, t("no tasks")));
      return;
    }
    for (const task of found) {
      const open = button([el("span", {}, task.id), el("small", {}, task.summary)], () => this.#open(task, open), { class: "quiet" });
      this.names.append(el("li", {}, open));
    }
    this.#open(found[0], this.names.querySelector("button"));
  }

  #open(task, chosen) {
    this.#running?.abort();
    for (const each of this.names.querySelectorAll("button")) each.removeAttribute("aria-current");
    chosen.setAttribute("aria-current", "true");
    const inputs = new Inputs(task.inputs);
    const models = el("select", {}, this.#session.models.map((model) => el("option", {}, model.name)));
    const result = el("div", { class: "result", "aria-live": "polite" });
    const form = el("form", { class: "card" }, inputs.fields, field(t("model"), models), el("button", { class: "primary" }, t("run")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run(task, inputs, models.value, result, form.lastElementChild);
    });
    fill(this.task, el("h2", {}, task.id), el("p", {}, task.summary), form, result, this.#batch(task, models));
  }

  async #run(task, inputs, model, result, go) {
    if (this.#running) {
      this.#running.abort();
      return;
    }
    let values;
    try {
      values = inputs.values();
    } catch (error) {
      fill(result, el("p", { class: "trouble", role: "alert" }, error.message));
      return;
    }
    this.#running = new AbortController();
    go.textContent = t("stop");
    fill(result, el("p", { class: "note" }, `${t("running")} …`));
    try {
      const { output } = await this.#api.post(`v1/tasks/${encodeURIComponent(task.id)}`, { model, inputs: values }, this.#running.signal);
      fill(result, el("h3", {}, t("result")), shown(output));
    } catch (error) {
      fill(result, el("p", { class: "trouble", role: "alert" }, error.name === "AbortError" ? t("stopped") : error.message));
    }
    this.#running = null;
    go.textContent = t("run");
  }

  // Many at once

  #batch(task, models) {
    const file = el("input", { type: "file", accept: ".csv,text/csv", id: unique("file") });
    const told = el("div", { "aria-live": "polite" });
    const zone = el("section", { class: "card drop" }, el("h3", {}, t("batch")), field(t("csv file"), file, t("batch hint")), told);
    const begin = async (chosen) => chosen && this.#rows(task, models.value, chosen.name, await chosen.text(), told);
    file.addEventListener("change", () => begin(file.files[0]));
    zone.addEventListener("dragover", (event) => event.preventDefault());
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      begin(event.dataTransfer.files[0]);
    });
    return zone;
  }

  async #rows(task, model, name, text, told) {
    const [header = [], ...rows] = parse(text);
    const missing = (task.inputs.required ?? []).find((each) => !header.includes(each));
    const trouble = missing ? t("batch missing", { name: missing }) : rows.length ? "" : t("batch empty");
    if (trouble) {
      fill(told, el("p", { class: "trouble", role: "alert" }, trouble));
      return;
    }
    this.#running?.abort();
    const stop = (this.#running = new AbortController());
    const meter = el("progress", { max: rows.length, value: 0, "aria-label": t("batch") });
    const count = el("p", {});
    fill(told, meter, count, button(t("stop"), () => stop.abort()));
    const answers = new Array(rows.length).fill(null);
    let done = 0;
    let failed = 0;
    let next = 0;
    const step = () => {
      meter.value = done;
      count.textContent = t("batch progress", { done, count: rows.length, failed });
    };
    const work = async () => {
      while (next < rows.length && !stop.signal.aborted) {
        const at = next++;
        answers[at] = await this.#row(task, model, header, rows[at], stop.signal);
        done += 1;
        failed += "error" in answers[at];
        step();
      }
    };
    step();
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (this.#running === stop) this.#running = null;
    const save = () => download(`${task.id}-${name}`, "text/csv", table(header, rows, answers));
    fill(told, meter, count, button(t("download"), save, { class: "primary" }));
    announce(count.textContent);
  }

  /** The output of a row, or its `error`. */
  async #row(task, model, header, row, signal) {
    try {
      const inputs = {};
      for (const [place, name] of header.entries()) {
        const schema = task.inputs.properties?.[name];
        if (schema && (row[place] ?? "") !== "") inputs[name] = read(name, schema, row[place]);
      }
      return (await this.#api.post(`v1/tasks/${encodeURIComponent(task.id)}`, { model, inputs }, signal)).output;
    } catch (error) {
      return { error: error.name === "AbortError" ? t("stopped") : error.message };
    }
  }
}

/** The table that was given, with the columns of the answers behind it. */
function table(header, rows, answers) {
  const columns = [...new Set(answers.flatMap((answer) => Object.keys(answer ?? {})))];
  const plain = (value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
  const names = columns.map((name) => (header.includes(name) ? `output.${name}` : name));
  return format([[...header, ...names], ...rows.map((row, at) => [...row, ...columns.map((name) => plain(answers[at]?.[name]))])]);
}

/** The fields of a task's inputs. */
class Inputs {
  #schema;
  #inputs = new Map();

  constructor(schema) {
    this.#schema = schema;
    const required = new Set(schema.required ?? []);
    const fields = Object.entries(schema.properties ?? {}).map(([name, each]) => {
      const input = inputFor(each, required.has(name));
      this.#inputs.set(name, input);
      const kind = kindOf(each);
      const hint = { lines: t("lines hint"), json: t("json hint") }[kind] ?? "";
      return { needed: required.has(name), node: field(name, input, [each.description, hint].filter(Boolean).join(" ")) };
    });
    const rest = fields.filter((each) => !each.needed).map((each) => each.node);
    const more = rest.length ? el("details", {}, el("summary", {}, t("settings")), rest) : null;
    this.fields = add(el("div", {}), [...fields.filter((each) => each.needed).map((each) => each.node), more]);
  }

  /** What was typed in. Throws where it is no JSON and has to be. */
  values() {
    const found = {};
    for (const [name, input] of this.#inputs) {
      const schema = this.#schema.properties[name];
      if (input.type === "checkbox") {
        if (input.checked !== (schema.default ?? false)) found[name] = input.checked;
      } else if (input.value !== "") {
        found[name] = read(name, schema, input.value);
      }
    }
    return found;
  }
}

function kindOf(schema) {
  const type = [schema.type].flat().find((each) => each !== "null") ?? schema.anyOf?.map((each) => each.type).find((each) => each !== "null");
  if (schema.enum) return "choice";
  if (type === "array" && schema.items?.type === "string") return "lines";
  return { string: "text", integer: "number", number: "number", boolean: "flag" }[type] ?? "json";
}

function inputFor(schema, required) {
  switch (kindOf(schema)) {
    case "choice":
      return el("select", { required }, required ? null : el("option", { value: "" }), schema.enum.map((each) => el("option", {}, String(each))));
    case "number":
      return el("input", { type: "number", step: schema.type === "integer" ? 1 : "any", required, placeholder: schema.default ?? "" });
    case "flag":
      return el("input", { type: "checkbox", prop: { checked: schema.default ?? false } });
    default:
      return el("textarea", { rows: 2, required, placeholder: typeof schema.default === "string" ? schema.default : "" });
  }
}

/** A value from what was typed. */
function read(name, schema, text) {
  switch (kindOf(schema)) {
    case "number":
      return Number(text);
    case "flag":
      return /^(true|1|yes)$/i.test(text);
    case "lines":
      return text.split("\n").filter((line) => line.trim());
    case "json":
      try {
        return JSON.parse(text);
      } catch (error) {
        throw new Error(t("bad json", { name, reason: error.message }));
      }
    default:
      return text;
  }
}

/** A task's output: texts as they are, anything else by its names. */
function shown(value) {
  if (Array.isArray(value)) return el("ol", {}, value.map((each) => el("li", {}, shown(each))));
  if (value !== null && typeof value === "object") {
    return el("dl", {}, Object.entries(value).map(([name, each]) => [el("dt", {}, name), el("dd", {}, shown(each))]));
  }
  return el("span", { class: "said" }, String(value));
}
