// Operate: what runs, how fast, for whom; and what an administrator changes.

import { Chart } from "./charts.js";
import { announce, button, el, fill, table, wide } from "./dom.js";
import { bytes, pipeline, report } from "./pipeline.js";
import { histogram, quantile, samples, total } from "./prometheus.js";
import { t } from "./words.js";

/** Milliseconds between two looks at the server, while the view is shown. */
const EVERY = 2000;
/** Looks over which quantiles are taken: a minute. */
const WINDOW = 30;
const TTFT = "vllm:time_to_first_token_seconds";
const ITL = "vllm:request_time_per_output_token_seconds";

export default class Operate {
  #api;
  #administers;
  #timer = null;
  #shown = true;
  #closed = false;
  #looks = [];
  #schedulers = [];
  #drawn = "";

  constructor(place, api, session) {
    this.#api = api;
    this.#administers = session.permissions.includes("administer");
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.told = el("p", { class: "note", role: "status" });
    this.models = el("div", { class: "cards" });
    this.requests = el("div", {});
    this.plugins = wide(t("plugins"));
    const seconds = (value) => `${value.toPrecision(2)} s`;
    this.charts = {
      speed: new Chart(t("tokens a second"), [""], (value) => value.toFixed(1)),
      busy: new Chart(t("in progress"), [t("running now"), t("waiting now")], String),
      kv: new Chart(t("kv cache"), [""], (value) => `${(100 * value).toFixed(0)} %`, 1),
      first: new Chart(t("first token"), [t("median"), t("95 %")], seconds),
      between: new Chart(t("between tokens"), [t("median"), t("95 %")], seconds),
    };
    const reload = this.#administers ? button(t("reload"), () => this.#reload()) : null;
    place.append(
      el(
        "div",
        { class: "page" },
        this.trouble,
        this.told,
        el("h2", {}, t("models")),
        this.models,
        el("div", { class: "charts" }, Object.values(this.charts).map((chart) => chart.node)),
        el("h2", {}, t("requests")),
        this.requests,
        el("div", { class: "row" }, el("h2", {}, t("plugins")), reload),
        this.plugins,
      ),
    );
    if (this.#administers && session.keys) this.#manage(place.lastElementChild);
    this.#begin();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  /** Look at the server while the view is shown. */
  shown(now) {
    const again = now && !this.#shown;
    this.#shown = now;
    if (again) this.#look();
  }

  /** Keys and the audit log, whose code only administrators need. */
  async #manage(page) {
    const { Keys } = await import("./keys.js");
    if (!this.#closed) new Keys(page, this.#api);
  }

  async #begin() {
    try {
      const found = (await this.#api.get("admin/plugins")).data;
      this.#schedulers = found.filter((each) => each.kind === "scheduler").map((each) => each.name);
      const columns = ["kind", "name", "distribution", "version"];
      const state = ({ problem }) => (problem ? el("span", { class: "trouble" }, problem) : t("usable"));
      const rows = found.map((each) => [...columns.map((column) => each[column] ?? ""), state(each)]);
      fill(this.plugins, table([...columns, "state"].map((each) => t(each)), rows));
    } catch (error) {
      this.#complain(error);
    }
    await this.#look();
  }

  async #look() {
    clearTimeout(this.#timer);
    if (this.#closed || !this.#shown) return;
    if (!document.hidden) {
      try {
        const [models, metrics, requests] = await Promise.all([
          this.#api.get("admin/models"),
          this.#api.text("metrics"),
          this.#api.get("admin/requests"),
        ]);
        this.#drawModels(models.data);
        this.#measure(samples(metrics), performance.now());
        this.#drawRequests(requests.data);
        this.#complain(null);
      } catch (error) {
        this.#complain(error);
      }
    }
    if (!this.#closed && this.#shown) this.#timer = setTimeout(() => this.#look(), EVERY);
  }

  #complain(error) {
    this.trouble.hidden = !error;
    this.trouble.textContent = error?.message ?? "";
  }

  // Models

  #drawModels(models) {
    // Drawn again only where something that it shows has changed, so that what has the focus keeps it.
    const facts = models.map((each) => [each.name, each.state, each.pinned, each.scheduler, each.weight_bytes, each.kv_bytes, each.loader, each.stages]);
    if (JSON.stringify(facts) === this.#drawn) return;
    const focused = document.activeElement?.id;
    this.#drawn = JSON.stringify(facts);
    fill(this.models, models.map((model, place) => this.#model(model, place)));
    if (focused) document.getElementById(focused)?.focus();
  }

  #model(model, place) {
    const pinned = model.pinned ? el("span", { class: "badge" }, t("pinned")) : null;
    const title = el("h3", {}, model.name, " ", el("span", { class: `badge ${model.state.replace(" ", "-")}` }, t(model.state)), " ", pinned);
    const facts = el("dl", { class: "facts" });
    const told = (name, value) => value && facts.append(el("dt", {}, name), el("dd", {}, value));
    told(t("where"), [model.device, model.dtype].filter(Boolean).join(", "));
    told(t("memory"), model.weight_bytes ? `${bytes(model.weight_bytes)} + ${bytes(model.kv_bytes ?? 0)} KV` : "");
    return el("section", { class: "card", "aria-label": model.name }, title, pipeline(model), facts, report(model), this.#administers && this.#actions(model, place));
  }

  #actions(model, place) {
    const path = `admin/models/${encodeURIComponent(model.name)}`;
    const act = (what, body = {}) => () => this.#change(() => this.#api.post(`${path}/${what}`, body));
    const loaded = model.state === "loaded";
    const one = (what) => button(t(what), act(what), { id: `${what}-${place}` });
    const use = el("select", { "aria-label": t("scheduler"), id: `use-${place}` });
    fill(use, this.#schedulers.map((name) => el("option", { prop: { selected: name === model.scheduler } }, name)));
    const swap = button(t("use"), () => act("scheduler", { use: use.value })(), { id: `swap-${place}`, label: `${t("use")}: ${t("scheduler")}` });
    return el("div", { class: "row" }, one(loaded ? "unload" : "load"), one(model.pinned ? "unpin" : "pin"), el("span", { class: "pair" }, use, swap));
  }

  /** Do a change, and look at what has become of it. */
  async #change(action) {
    this.told.textContent = `${t("running")} …`;
    try {
      await action();
      this.told.textContent = t("done");
      announce(t("done"));
    } catch (error) {
      this.told.textContent = error.message;
    }
    await this.#look();
  }

  async #reload() {
    await this.#change(async () => {
      const changed = (await this.#api.post("admin/reload")).data;
      announce(changed.length ? t("reloaded", { paths: changed.join(", ") }) : t("nothing changed"));
    });
  }

  // Charts

  #measure(found, now) {
    const next = { now, tokens: total(found, "vllm:generation_tokens_total"), first: histogram(found, TTFT), between: histogram(found, ITL) };
    const before = this.#looks.at(-1) ?? { ...next, now: now - EVERY };
    const oldest = this.#looks.at(0) ?? next;
    const seconds = Math.max(0.001, (now - before.now) / 1000);
    this.charts.speed.add([Math.max(0, next.tokens - before.tokens) / seconds]);
    this.charts.busy.add([total(found, "vllm:num_requests_running"), total(found, "vllm:num_requests_waiting")]);
    const kv = found.get("vllm:kv_cache_usage_perc") ?? [];
    this.charts.kv.add([kv.length ? Math.max(...kv.map((each) => each.value)) : 0]);
    for (const name of ["first", "between"]) {
      this.charts[name].add([0.5, 0.95].map((share) => quantile(oldest[name], next[name], share)));
    }
    this.#looks.push(next);
    if (this.#looks.length > WINDOW) this.#looks.shift();
  }

  // Requests

  /** How many requests of each tenant wait for their first token, and how many are being answered. */
  #queues(requests) {
    const queues = new Map();
    for (const { tenant, first } of requests) {
      const counts = queues.get(tenant) ?? [0, 0];
      counts[first === null ? 0 : 1] += 1;
      queues.set(tenant, counts);
    }
    const rows = [...queues].sort(([one], [other]) => (one < other ? -1 : 1)).map(([tenant, counts]) => [tenant, ...counts.map(String)]);
    return wide(t("queues"), table([t("tenant"), t("waiting now"), t("running now")], rows), "queues");
  }

  #drawRequests(requests) {
    if (!requests.length) {
      fill(this.requests, el("p", { class: "note" }, t("no requests")));
      return;
    }
    const focused = document.activeElement?.id;
    const columns = ["model", "asked by", "since", "first after", "actions"].slice(0, this.#administers ? 5 : 4);
    const cancel = (id) => button(t("cancel"), () => this.#change(() => this.#api.post(`admin/requests/${id}/cancel`)), { id: `cancel-${id}` });
    const rows = requests.map((each) => {
      const first = each.first === null ? "…" : `${each.first.toFixed(2)} s`;
      const cells = [each.model, each.principal, `${each.seconds.toFixed(1)} s`, first];
      return this.#administers ? [...cells, cancel(each.id)] : cells;
    });
    fill(this.requests, this.#queues(requests), wide(t("requests"), table(columns.map((each) => t(each)), rows)));
    if (focused) document.getElementById(focused)?.focus();
  }
}
