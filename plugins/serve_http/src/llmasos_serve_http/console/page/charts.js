// Lines over time, as SVG.

import { el, fill, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;
/** Points that a chart shows. */
const POINTS = 90;

/** The last values of some series. Values are numbers, or null where there is none. */
export class Chart {
  #top;
  #names;
  #shown;
  #points = [];
  #plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #legend = el("p", { class: "legend" });

  /** `names`: of the series; `shown`: a value -> its text; `top`: the least value that the chart's height stands for. */
  constructor(title, names, shown, top = 1e-9) {
    this.#top = top;
    this.#names = names;
    this.#shown = shown;
    this.node = el("figure", { class: "chart card" }, el("figcaption", {}, title), this.#plot, this.#legend);
  }

  /** The values of now, one for each series. */
  add(values) {
    this.#points.push(values);
    if (this.#points.length > POINTS) this.#points.shift();
    const top = Math.max(this.#top, ...this.#points.flat().filter((value) => value !== null));
    fill(
      this.#plot,
      svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, class: "axis" }),
      this.#names.map((_, series) => svg("path", { d: this.#path(series, top), class: `series-${series}` })),
    );
    const value = (series) => (values[series] === null ? "–" : this.#shown(values[series]));
    fill(
      this.#legend,
      this.#names.map((name, series) => el("span", { class: `series-${series}` }, name ? `${name}: ${value(series)}` : value(series))),
    );
  }

  #path(series, top) {
    let path = "";
    let down = false;
    for (const [place, values] of this.#points.entries()) {
      const value = values[series];
      if (value !== null) {
        const x = (WIDTH * (place + POINTS - this.#points.length)) / (POINTS - 1);
        const y = HEIGHT - 2 - (HEIGHT - 6) * (value / top);
        path += `${down ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      }
      down = value !== null;
    }
    return path;
  }
}
