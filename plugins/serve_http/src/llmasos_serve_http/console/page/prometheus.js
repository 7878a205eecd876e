// Metrics in Prometheus's text form.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Name -> samples, each with `labels` and `value`. */
export function samples(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    const each = { labels, value: Number(match[3]) };
    if (found.has(match[1])) found.get(match[1]).push(each);
    else found.set(match[1], [each]);
  }
  return found;
}

/** The sum of all samples of a name. */
export function total(found, name) {
  return (found.get(name) ?? []).reduce((sum, each) => sum + each.value, 0);
}

/** Upper bound -> how many observations lie below it, over all labels but the bound. */
export function histogram(found, name) {
  const counts = new Map();
  for (const { labels, value } of found.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return counts;
}

/**
 * A quantile of the observations between two histograms, linear within a bucket; null where there are none. `share`: 0.5 is the median.
 */
export function quantile(before, after, share) {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const counts = bounds.map((bound) => after.get(bound) - (before.get(bound) ?? 0));
  const all = counts.at(-1);
  if (!all) return null;
  const rank = share * all;
  const at = counts.findIndex((count) => count >= rank);
  const low = at ? bounds[at - 1] : 0;
  if (bounds[at] === Infinity) return low;
  const below = at ? counts[at - 1] : 0;
  return low + ((bounds[at] - low) * (rank - below)) / Math.max(1, counts[at] - below);
}
