// A model's way from its source to its answers, and what each stage of its acceleration cost.

import { el, table, wide } from "./dom.js";
import { current, t } from "./words.js";

/** Column of the report -> its value in what was measured after a stage. */
const MEASURED = {
  "size on disk": ({ size }) => size && bytes(size.disk),
  "perplexity": ({ quality }) => quality?.perplexity?.toFixed(2),
  "divergence": ({ quality }) => quality?.mean_kl?.toPrecision(2),
  "same first choice": ({ quality }) => quality?.top1 !== undefined && `${(100 * quality.top1).toFixed(1)} %`,
  "prefill": ({ speed }) => speed?.prefill?.toFixed(0),
  "decode": ({ speed }) => speed?.decode?.toFixed(1),
};

/** The model's parts in their order. */
export function pipeline(model) {
  const stages = (model.stages ?? []).map((stage) => [name(stage), cost(stage)]);
  const placed = model.replicas?.length ? `${t("replicas", { count: model.replicas.length })}: ${hosts(model.replicas)}` : t("this process");
  const guards = (model.guards ?? []).map((guard) => [t("guard"), guard]);
  const parts = [
    [t("source"), model.source],
    [t("format"), [model.format, model.architecture].filter(Boolean).join(", ")],
    ...stages,
    [t("loader"), /"([^"]+)"/.exec(model.loader ?? "")?.[1] ?? model.loader],
    [t("scheduler"), model.scheduler],
    ...guards,
    [t("placement"), placed],
  ].filter(([, value]) => value);
  return el("ol", { class: "pipeline", "aria-label": t("pipeline") }, parts.map(([part, value]) => el("li", {}, el("small", {}, part), el("span", {}, value))));
}

/** A table of what each stage took and what was measured after it; null where the model was not accelerated. */
export function report(model) {
  const stages = model.stages ?? [];
  if (!stages.length) return null;
  const shown = Object.keys(MEASURED).filter((column) => stages.some((stage) => measured(stage, column)));
  const names = ["stage", "took", ...shown].map((column) => t(column));
  const rows = stages.map((stage) => [name(stage), seconds(stage), ...shown.map((column) => measured(stage, column) || "–")]);
  const costs = wide(`${t("acceleration")}: ${model.name}`, table(names, rows));
  return el("details", {}, el("summary", {}, t("acceleration")), costs);
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count ? Math.min(units.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  return `${(count / 1024 ** power).toFixed(power > 2 ? 1 : 0)} ${units[power]}`;
}

function name(stage) {
  return String(stage.use ?? "").split(":").at(-1);
}

/** In one line: the divergence from the model before all stages where that was measured, else the time. */
function cost(stage) {
  const divergence = measured(stage, "divergence");
  return divergence ? `${t("divergence")} ${divergence}` : seconds(stage);
}

function seconds(stage) {
  return typeof stage.seconds === "number" ? `${stage.seconds.toLocaleString(current(), { maximumFractionDigits: 1 })} s` : "–";
}

function measured(stage, column) {
  return stage.measured ? MEASURED[column](stage.measured) : null;
}

/** Where replicas run: each host, and how many of them are on it. */
function hosts(replicas) {
  const counts = new Map();
  for (const host of replicas.map((each) => each.where.split(",")[0])) counts.set(host, (counts.get(host) ?? 0) + 1);
  return [...counts].map(([host, count]) => (count > 1 ? `${host} (${count})` : host)).join(", ");
}
