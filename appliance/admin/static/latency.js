// Latencies by model: a table of the last 30 s or since the start, and p50 and p99 over five minutes.

import { Chart } from "./chart.js";
import { Choices, Table, Toggle } from "./dom.js";
import { NONE, milliseconds, plain } from "./format.js";
import { MOST_SECONDS, STAGES, SECOND_US } from "./store.js";

const byId = (id) => document.getElementById(id);
const MEANINGS = {
  queue: "received to handed to a worker",
  batch: "decoding and preprocessing in the worker",
  execute: "the engine",
  reply: "the engine's end to the answer handed to the network",
  total: "received to answered",
};

export class LatencyView {
  constructor(store, colours) {
    this.store = store;
    this.colours = colours;
    this.since = "30s";
    this.stages = false;
    byId("latency-since").replaceChildren();
    byId("latency-stages").replaceChildren();
    new Choices(
      byId("latency-since"),
      [
        ["30s", "last 30 s"],
        ["start", "since the start"],
      ],
      this.since,
      (since) => {
        this.since = since;
        this.show();
      },
    );
    new Toggle(byId("latency-stages"), "stages", (on) => {
      this.stages = on;
      this.makeTable();
      this.show();
    });
    this.makeTable();
    byId("latency-chart").replaceChildren();
    this.chart = new Chart(byId("latency-chart"), {
      value: (us) => `${Number((us / 1000).toPrecision(3))} ms`,
      least: 10_000,
      span: MOST_SECONDS,
      empty: "No observation was answered in the last five minutes.",
    });
  }

  makeTable() {
    const node = byId("latency-table");
    node.replaceChildren();
    const stages = this.stages ? STAGES : ["total"];
    const columns = [
      {
        key: "model",
        label: "model",
        text: (row) => plain(row.name),
        swatch: (row) => this.colours.name(row.name),
        title: "model, version and state",
        hint: (row) => `version ${plain(row.version)}`,
      },
      {
        key: "state",
        label: "state",
        text: (row) => row.state,
        mark: (row) => (row.state === "ready" ? "" : "bad"),
      },
      { key: "queued", label: "queued", number: true, text: (row) => String(row.queued) },
      { key: "rows", label: "rows", number: true, text: (row) => String(row.rows) },
      {
        key: "mean",
        label: "rows/batch",
        number: true,
        text: (row) => (row.mean === null ? NONE : row.mean.toFixed(1)),
      },
    ];
    for (const stage of stages) {
      for (const part of ["p50", "p99", "max"]) {
        if (stages.length > 1 && part === "max" && stage !== "total") continue;
        columns.push({
          key: `${stage}-${part}`,
          label: stages.length > 1 ? `${stage} ${part}` : part,
          title: `${MEANINGS[stage]}, milliseconds`,
          number: true,
          text: (row) => {
            const us = row.stages[stage]?.[part] ?? null;
            return us === null ? NONE : milliseconds(us);
          },
        });
      }
    }
    this.table = new Table(node, columns, {
      empty: "No models: put one into the repository (models.directory), and start it again.",
    });
  }

  show() {
    const { status } = this.store;
    if (!status) return;
    this.table.show(this.since === "30s" ? this.recent() : this.sinceStart());
    this.drawChart();
  }

  recent() {
    const found = this.store.latencies(this.stages ? STAGES : ["total"]);
    return this.store.status.models.map((model) => {
      const own = found.get(model.name);
      return {
        ...about(model),
        rows: own?.rows ?? 0,
        mean: own?.batches ? own.rows / own.batches : null,
        stages: own?.stages ?? {},
      };
    });
  }

  sinceStart() {
    return this.store.status.models.map((model) => ({
      ...about(model),
      rows: model.rows,
      mean: model.rows ? model.batch_size_mean : null,
      stages: Object.fromEntries(
        Object.entries(model.latency_us).map(([stage, each]) => [stage, each.count ? each : {}]),
      ),
    }));
  }

  drawChart() {
    const { seconds, status } = this.store;
    const models = status.models.map((model) => model.name);
    const times = seconds.map(({ second }) => this.store.unix((second + 0.5) * SECOND_US));
    const lines = models.flatMap((name) => {
      const colour = this.colours.model(name);
      const values = (part) => seconds.map((each) => each.models.get(name)?.[part] ?? null);
      return [
        { label: `${plain(name)} p99`, colour, width: 2, values: values("p99") },
        { label: `${plain(name)} p50`, colour, width: 1, dash: [3, 3], values: values("p50") },
      ];
    });
    this.chart.show(times, lines, this.store.unixS);
  }
}

function about(model) {
  return {
    name: model.name,
    version: model.version,
    state: model.state,
    queued: model.queued,
  };
}
