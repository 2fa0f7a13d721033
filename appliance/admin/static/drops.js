// Requests that ended other than OK: how many in each second, and why.

import { Chart } from "./chart.js";
import { GROUPS, group } from "./colours.js";
import { make, Table } from "./dom.js";
import { plain } from "./format.js";
import { SECOND_US, SPAN_US } from "./store.js";

const byId = (id) => document.getElementById(id);
const SHOWN = 100;
const CLIENTS = 2;

export class DropsView {
  constructor(store, colours) {
    this.store = store;
    this.colours = colours;
    for (const id of ["drops-chart", "drops-table", "drops-key"]) byId(id).replaceChildren();
    this.chart = new Chart(byId("drops-chart"), {
      value: String,
      least: 4,
      steps: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5],
      span: SPAN_US / SECOND_US,
      bars: true,
      empty: "Every observation of the last 30 s was answered.",
    });
    this.table = new Table(
      byId("drops-table"),
      [
        {
          key: "outcome",
          label: "cause",
          text: (row) => row.outcome,
          swatch: (row) => `group-${group(row.outcome)}`,
        },
        { key: "model", label: "model", text: (row) => plain(row.model) || "not served" },
        { key: "count", label: "count", number: true, text: (row) => String(row.count) },
        { key: "clients", label: "robots", text: (row) => clients(row.clients) },
        {
          key: "message",
          label: "what was said",
          title: "to the last of them",
          text: (row) => plain(row.message),
          hint: (row) => plain(row.message),
        },
      ],
      { empty: "" },
    );
    this.table.table.classList.add("causes");
    byId("drops-key").append(
      ...GROUPS.map(([label], index) =>
        make("li", {}, make("span", { className: `swatch group-${index}` }), label),
      ),
    );
  }

  show() {
    this.table.show(this.store.causes().slice(0, SHOWN));
    const { nowUs, drops } = this.store;
    const newest = Math.floor(nowUs / SECOND_US);
    const cells = SPAN_US / SECOND_US;
    const counts = GROUPS.map(() => new Array(cells).fill(0));
    for (const drop of drops) {
      const at = cells - 1 - (newest - Math.floor(drop.at_us / SECOND_US));
      if (at >= 0 && at < cells) counts[group(drop.outcome)][at] += drop.count;
    }
    const times = counts[0].map((_, at) =>
      this.store.unix((newest - (cells - 1 - at) + 0.5) * SECOND_US),
    );
    const lines = GROUPS.map(([label], index) => ({
      label,
      colour: this.colours.group(index),
      values: counts[index],
    }));
    this.chart.show(times, lines, this.store.unixS);
  }
}

function clients(counts) {
  const ordered = [...counts].sort(([, a], [, b]) => b - a);
  const named = ordered
    .slice(0, CLIENTS)
    .map(([client, count]) => `${plain(client) || "several"} ${count}`);
  const others = ordered.length - CLIENTS;
  return named.join(", ") + (others > 0 ? ` and ${others} more` : "");
}
