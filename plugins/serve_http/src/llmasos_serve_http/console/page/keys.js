// Keys and the audit log, for administrators.

import { announce, button, el, field, fill, table, wide } from "./dom.js";
import { current, t } from "./words.js";

const ROLES = ["user", "operator", "admin"];
/** Limits of a new key that are whole numbers. */
const LIMITS = ["tokens_per_day", "tokens_per_month", "requests_per_minute", "concurrency"];
/** Period of a quota -> the limit that it is of. */
const QUOTAS = { day: "tokens_per_day", month: "tokens_per_month" };

export class Keys {
  #api;

  constructor(place, api) {
    this.#api = api;
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.secret = el("div", { class: "secret card", role: "status", hidden: true });
    this.keys = wide(t("keys"));
    this.verdict = el("p", { class: "note", role: "status" });
    this.events = wide(t("audit log"), null, "events");
    const verify = button(t("verify"), () => this.#do(() => this.#verify()));
    const again = button(t("look again"), () => this.#do(() => this.#look()));
    place.append(
      el("h2", {}, t("keys")),
      this.trouble,
      this.secret,
      this.keys,
      el("details", { class: "new-key" }, el("summary", {}, t("new key")), this.#form()),
      el("div", { class: "row" }, el("h2", {}, t("audit log")), verify, again),
      this.verdict,
      this.events,
    );
    this.#do(() => this.#look());
  }

  /** Do something, and tell why where it fails. */
  async #do(action) {
    this.trouble.hidden = true;
    try {
      await action();
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }

  async #look() {
    const [keys, events] = await Promise.all([this.#api.get("admin/keys"), this.#api.get("admin/audit")]);
    const now = keys.data.map((key) => this.#row(key));
    fill(this.keys, table(["id", "label", "tenant", "role", "state", "expires", "today", "this month", "actions"].map((each) => t(each)), now));
    const told = ({ time, principal, tenant, action, resource, outcome, details = {} }) => [
      when(time), principal, tenant, action, resource, outcome, Object.entries(details).map(([name, value]) => `${name}: ${text(value)}`).join(", "),
    ];
    fill(this.events, table(["time", "asked by", "tenant", "action", "resource", "outcome", "details"].map((each) => t(each)), events.data.map(told)));
  }

  #row(key) {
    const active = key.state === "active";
    const act = (what) => () => this.#do(() => this.#change(key, what));
    const one = (what) => button(t(what), act(what), { label: `${t(what)}: ${key.label} ${key.id}` });
    const state = el("span", { class: `badge ${active ? "loaded" : ""}` }, t(key.state));
    const quotas = Object.keys(QUOTAS).map((period) => quota(key, period));
    const actions = active ? el("span", { class: "pair" }, one("rotate"), one("revoke")) : "";
    return [key.id, key.label, key.tenant, key.role, state, key.expires ? when(key.expires) : t("never"), ...quotas, actions];
  }

  async #change(key, what) {
    if (!confirm(t(`${what} it?`, { name: key.label }))) return;
    const found = await this.#api.post(`admin/keys/${encodeURIComponent(key.id)}/${what}`);
    this.#tell(found.key);
    await this.#look();
  }

  #form() {
    const inputs = {
      label: el("input", { required: true, autocomplete: "off" }),
      tenant: el("input", { autocomplete: "off" }),
      role: el("select", {}, ROLES.map((role) => el("option", {}, role))),
      expires: el("input", { autocomplete: "off", placeholder: "90d" }),
      models: el("input", { autocomplete: "off", spellcheck: "false" }),
      ...Object.fromEntries(LIMITS.map((name) => [name, el("input", { type: "number", min: 1, step: 1 })])),
    };
    const fields = Object.entries(inputs).map(([name, input]) => field(t(name), input, t(`${name} of a key`)));
    const submit = (event) => {
      event.preventDefault();
      this.#do(async () => {
        const wanted = {};
        for (const [name, input] of Object.entries(inputs)) {
          const value = input.value.trim();
          if (value) wanted[name] = LIMITS.includes(name) ? input.valueAsNumber : name === "models" ? value.split(/[\s,]+/) : value;
        }
        this.#tell((await this.#api.post("admin/keys", wanted)).key);
        form.reset();
        await this.#look();
      });
    };
    const form = el("form", { class: "fields", on: { submit } }, fields, el("button", { class: "primary" }, t("make a key")));
    return form;
  }

  /** Show the secret of a new key, which nobody can look up again. */
  #tell(secret) {
    this.secret.hidden = !secret;
    if (!secret) return;
    const copy = button(t("copy"), () => navigator.clipboard.writeText(secret));
    const hide = button(t("hide"), () => this.#tell(""));
    fill(this.secret, el("p", {}, t("shown once")), el("p", { class: "row" }, el("code", {}, secret), copy, hide));
    announce(t("shown once"));
  }

  async #verify() {
    this.verdict.textContent = `${t("running")} …`;
    const { whole, problems } = await this.#api.post("admin/audit/verify");
    this.verdict.classList.toggle("trouble", !whole);
    this.verdict.textContent = whole ? t("log is whole") : problems.join(" ");
    await this.#look();
  }
}

/** What a key has used of a day or a month, and of how much. */
function quota(key, period) {
  const { used = 0, reserved = 0 } = key.usage?.[period] ?? {};
  const limit = key.limits?.[QUOTAS[period]];
  const figures = `${(used + reserved).toLocaleString(current())}${limit ? ` / ${limit.toLocaleString(current())}` : ""}`;
  const share = limit ? el("meter", { min: 0, max: limit, value: used + reserved, "aria-label": figures }) : null;
  return el("span", {}, figures, share);
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function when(time) {
  const found = new Date(time);
  return Number.isNaN(found.valueOf()) ? text(time) : found.toLocaleString(current());
}
