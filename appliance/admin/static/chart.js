// A chart over time by uPlot: lines, or bars that stand on each other. Made anew only when its
// lines, its colours or its size are others.

import { make } from "./dom.js";
import { clock } from "./format.js";

const uPlot = window.uPlot;
const SHORTEST_S = 30;

export class Chart {
  /**
   * @param node where; its size is the style sheet's
   * @param value how a value is written
   * @param least where the axis ends at least
   * @param steps between two of its marks; left out: any
   * @param span seconds shown
   * @param bars bars that stand on each other, instead of lines
   * @param empty what is said when there is nothing
   */
  constructor(node, { value, span, least = 1, steps, bars = false, empty }) {
    this.node = node;
    this.value = value;
    this.span = span;
    this.least = least;
    this.steps = steps;
    this.bars = bars;
    this.plot = null;
    this.made = "";
    this.range = [0, 1];
    this.empty = make("p", { className: "empty", textContent: empty, hidden: true });
    node.append(this.empty);
  }

  /** Show lines { label, colour, width, dash, values } over `times`, up to `nowS`. */
  show(times, lines, nowS) {
    const known = nowS - (times[0] ?? nowS);
    this.range = [nowS - Math.min(this.span, Math.max(SHORTEST_S, known)), nowS];
    const nothing = !lines.some(({ values }) => values.some((each) => each));
    this.empty.hidden = !nothing;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--quiet").trim();
    const grid = style.getPropertyValue("--line").trim();
    const size = { width: this.node.clientWidth, height: this.node.clientHeight };
    if (!size.width || !size.height) return;
    const form = JSON.stringify([lines.map(({ label, colour }) => [label, colour]), ink]);
    if (form !== this.made) {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(lines, ink, grid, size), this.data(times, lines));
      this.node.append(this.plot.root);
      this.made = form;
      return;
    }
    if (this.plot.width !== size.width || this.plot.height !== size.height) {
      this.plot.setSize(size);
    }
    this.plot.setData(this.data(times, lines));
  }

  data(times, lines) {
    if (!this.bars) return [times, ...lines.map(({ values }) => values)];
    // The last is drawn first, as high as all together; each of the others stands before it.
    const sums = times.map(() => 0);
    const stacked = lines.map(({ values }) =>
      values.map((value, index) => {
        sums[index] += value ?? 0;
        return sums[index] || null;
      }),
    );
    return [times, ...stacked.reverse()];
  }

  options(lines, ink, grid, size) {
    const ordered = this.bars ? [...lines].reverse() : lines;
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const font = "11px system-ui, sans-serif";
    return {
      ...size,
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { range: () => this.range },
        y: { range: (_, __, max) => [0, Math.max(this.least, max * 1.1)] },
      },
      axes: [
        { ...axis, font, size: 26, space: 70, values: (_, ticks) => ticks.map((each) => clock(each)) },
        {
          ...axis,
          font,
          size: 56,
          space: 28,
          incrs: this.steps,
          values: (_, ticks) => ticks.map(this.value),
        },
      ],
      series: [
        {},
        ...ordered.map(({ label, colour, width, dash }) => ({
          label,
          stroke: colour,
          fill: this.bars ? colour : undefined,
          width: this.bars ? 0 : width,
          dash,
          points: { show: this.bars ? false : undefined },
          paths: this.bars ? uPlot.paths.bars({ size: [0.8, 40] }) : undefined,
        })),
      ],
    };
  }
}
