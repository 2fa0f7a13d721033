// The timeline: a lane for each worker, a bar for each batch, a tick for each drop; and who was in
// the batch that is pointed at.

import { group } from "./colours.js";
import { Choices, make, sharp, Toggle } from "./dom.js";
import { clock, milliseconds, plain } from "./format.js";
import { beginUs, SPAN_US } from "./store.js";

const byId = (id) => document.getElementById(id);
const [NAMES, LANE, BAR, AXIS, DROPS, RIGHT] = [110, 38, 24, 20, 24, 8];
const NEAR = 5; // pixels beside a batch that count as pointing at it
const SPANS = [
  [SPAN_US, "30 s"],
  [SPAN_US / 3, "10 s"],
  [SPAN_US / 10, "3 s"],
  [SPAN_US / 30, "1 s"],
];
const MARKS_S = { 30: 5, 10: 2, 3: 0.5, 1: 0.2 }; // between two marks of the axis
const ROWS_SHOWN = 14;
const KEYS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "+", "-", " ", "Escape"]);

export class LanesView {
  constructor(store, colours) {
    this.store = store;
    this.colours = colours;
    this.canvas = byId("lanes");
    this.span = SPAN_US / 3;
    this.selected = null; // { batch, fixed }
    this.heldUs = null; // the right end, while it holds still
    for (const id of ["lanes-span", "lanes-hold", "lanes-key"]) byId(id).replaceChildren();
    this.choices = new Choices(byId("lanes-span"), SPANS, this.span, (span) => this.zoom(span));
    this.hold = new Toggle(byId("lanes-hold"), "hold still", (on) => {
      this.heldUs = on ? (this.heldUs ?? this.store.nowUs) : null;
      this.draw();
    });
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    this.detail();
  }

  listen() {
    const { canvas } = this;
    canvas.onpointermove = (event) => {
      if (!this.selected?.fixed) this.select(this.at(event), false);
    };
    canvas.onpointerleave = () => {
      if (!this.selected?.fixed) this.select(null, false);
    };
    canvas.onclick = (event) => {
      const batch = this.at(event);
      this.hold.set(batch !== null);
      this.select(batch, batch !== null);
    };
    canvas.onkeydown = (event) => {
      if (!KEYS.has(event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.key(event.key);
    };
  }

  key(key) {
    const spans = SPANS.map(([span]) => span);
    const index = spans.indexOf(this.span);
    if (key === " ") this.hold.set(!this.hold.on);
    else if (key === "Escape") this.release();
    else if (key === "+") this.zoom(spans[Math.min(index + 1, spans.length - 1)]);
    else if (key === "-") this.zoom(spans[Math.max(index - 1, 0)]);
    else this.step(key);
  }

  release() {
    this.hold.set(false);
    this.select(null, false);
  }

  zoom(span) {
    this.span = span;
    this.choices.show(span);
    this.draw();
  }

  /** Go to the batch beside the selected one, or to the nearest one of another worker. */
  step(key) {
    this.hold.set(true);
    const all = this.shown();
    if (!all.length) return;
    const now = this.selected?.batch;
    if (!now) {
      this.select(all.findLast((batch) => batch.end !== "running") ?? all[0], true);
      return;
    }
    const workers = this.workers();
    const lane = workers.indexOf(now.worker);
    if (key === "ArrowUp" || key === "ArrowDown") {
      const other = workers[lane + (key === "ArrowUp" ? -1 : 1)];
      const there = all.filter((batch) => batch.worker === other);
      const away = (batch) => Math.abs(beginUs(batch) - beginUs(now));
      if (there.length) this.select(there.reduce((a, b) => (away(b) < away(a) ? b : a)), true);
      return;
    }
    const own = all.filter((batch) => batch.worker === now.worker);
    own.sort((a, b) => beginUs(a) - beginUs(b) || a.id - b.id);
    const place = own.findIndex((batch) => batch.id === now.id);
    const next = own[place + (key === "ArrowLeft" ? -1 : 1)];
    if (next) this.select(next, true);
  }

  workers() {
    return this.store.status?.workers.map((worker) => worker.slot) ?? [];
  }

  right() {
    return this.heldUs ?? this.store.nowUs;
  }

  shown() {
    const [right, { batches, running }] = [this.right(), this.store];
    const left = right - this.span;
    const ended = batches.filter((batch) => batch.ended_us >= left && beginUs(batch) <= right);
    return [...ended, ...running];
  }

  show() {
    const { batches, running, status } = this.store;
    const { selected } = this;
    if (selected?.fixed && selected.batch.end === "running") {
      const over = batches.findLast((batch) => batch.id === selected.batch.id);
      if (over) this.select(over, true);
    }
    if (this.heldUs !== null && this.heldUs < this.store.nowUs - SPAN_US) this.hold.set(false);
    const empty = byId("lanes-empty");
    empty.hidden = batches.length + running.length > 0;
    empty.textContent = status.workers.length
      ? "No batch was run in the last 30 s: no robot asks."
      : "There are no workers: the repository has no models.";
    this.showKey();
    this.draw();
  }

  showKey() {
    const names = this.store.status.models.map((model) => model.name);
    const text = JSON.stringify(names);
    if (this.keyShown === text) return;
    this.keyShown = text;
    byId("lanes-key").replaceChildren(
      ...names.map((name) =>
        make("li", {}, swatch(this.colours.name(name)), make("span", { textContent: plain(name) })),
      ),
      make("li", {}, swatch("late"), "late row"),
      make("li", {}, swatch("revoked"), "taken back"),
      make("li", {}, swatch("lost"), "lost, or failed"),
    );
  }

  // ------------------------------------------------------------------------------ drawing

  x(atUs) {
    return NAMES + ((atUs - this.right() + this.span) / this.span) * this.width;
  }

  draw() {
    const workers = this.workers();
    const holder = this.canvas.parentElement;
    const full = holder.clientWidth;
    const height = AXIS + Math.max(1, workers.length) * LANE + DROPS;
    this.canvas.style.height = `${height}px`;
    this.width = Math.max(50, full - NAMES - RIGHT);
    const context = sharp(this.canvas, full, height);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.drawFrame(context, workers, height, full);
    if (!this.store.status) return;
    context.save();
    context.beginPath();
    context.rect(NAMES, 0, this.width, height);
    context.clip();
    const lanes = new Map(workers.map((worker, index) => [worker, { index, right: 0, colour: "" }]));
    for (const batch of this.shown()) this.drawBatch(context, batch, lanes.get(batch.worker));
    this.drawDrops(context, AXIS + Math.max(1, workers.length) * LANE);
    this.drawSelected(context);
    context.restore();
  }

  drawFrame(context, workers, height, full) {
    const [line, quiet, ink] = ["line", "quiet", "ink"].map((name) => this.colours.get(name));
    const part = MARKS_S[Math.round(this.span / 1e6)];
    const [rightS, leftS] = [0, this.span].map((ago) => this.store.unix(this.right() - ago));
    context.textAlign = "center";
    for (let mark = Math.ceil(leftS / part); mark * part <= rightS; mark += 1) {
      const x = Math.round(NAMES + ((mark * part - leftS) / (rightS - leftS)) * this.width);
      context.fillStyle = line;
      context.fillRect(x, AXIS - 4, 1, height - AXIS);
      context.fillStyle = quiet;
      const text = clock(mark * part + 1e-6, part < 1 ? 1 : 0);
      if (x > NAMES + 30 && x < full - 34) context.fillText(text, x, AXIS / 2 - 1);
    }
    context.textAlign = "right";
    workers.forEach((worker, index) => {
      const top = AXIS + index * LANE;
      context.fillStyle = line;
      context.fillRect(0, top, full, 1);
      context.fillStyle = ink;
      context.fillText(plain(worker), NAMES - 10, top + LANE / 2, NAMES - 14);
    });
    context.fillStyle = line;
    context.fillRect(0, height - DROPS, full, 1);
    context.fillStyle = quiet;
    context.fillText("drops", NAMES - 10, height - DROPS / 2, NAMES - 14);
  }

  /** From where to where a batch is drawn. */
  extent(batch) {
    const left = Math.round(this.x(beginUs(batch)));
    const until = batch.finished_us || batch.ended_us || this.store.nowUs;
    return [left, Math.max(left + 1, Math.round(this.x(until)))];
  }

  drawBatch(context, batch, lane) {
    if (lane === undefined) return;
    const top = AXIS + lane.index * LANE + 5;
    const isStaged = batch.end === "running" && !batch.started_us;
    const [left, right] = this.extent(batch);
    const width = right - left;
    if (batch.end === "revoked" || isStaged) {
      context.strokeStyle = this.colours.get("quiet");
      context.setLineDash([2, 2]);
      context.strokeRect(left + 0.5, top + BAR + 1.5, Math.max(2, width), 4);
      context.setLineDash([]);
      return;
    }
    const failed = batch.end === "lost" || batch.error !== "";
    const colour = failed ? this.colours.get("bad") : this.colours.model(batch.model);
    if (right > lane.right || colour !== lane.colour) {
      // What would only paint over the same pixels is left out.
      context.fillStyle = colour;
      context.globalAlpha = batch.end === "running" ? 0.5 : 1;
      context.fillRect(left, top, width > 3 ? width - 1 : width, BAR); // a gap to the next
      context.globalAlpha = 1;
      lane.right = right;
      lane.colour = colour;
    }
    if (failed) this.cross(context, left + width / 2, top + BAR / 2);
    if (batch.rows.some(([, , slack, outcome]) => slack < 0 || (outcome && outcome !== "OK"))) {
      context.fillStyle = this.colours.get("bad");
      context.fillRect(left - 0.5, top + BAR + 1, Math.max(2, width), 4);
    }
  }

  cross(context, x, y) {
    context.strokeStyle = this.colours.get("paper");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x - 4, y - 4);
    context.lineTo(x + 4, y + 4);
    context.moveTo(x + 4, y - 4);
    context.lineTo(x - 4, y + 4);
    context.stroke();
    context.lineWidth = 1;
  }

  drawDrops(context, top) {
    for (const drop of this.store.drops) {
      context.fillStyle = this.colours.group(group(drop.outcome));
      context.fillRect(this.x(drop.at_us) - 1, top + 5, 2, DROPS - 9);
    }
  }

  drawSelected(context) {
    const { selected } = this;
    if (!selected) return;
    const lane = this.workers().indexOf(selected.batch.worker);
    const [left, right] = this.extent(selected.batch);
    context.strokeStyle = this.colours.get("ink");
    context.lineWidth = selected.fixed ? 2 : 1;
    context.strokeRect(left - 1.5, AXIS + lane * LANE + 3.5, right - left + 3, BAR + 9);
    context.lineWidth = 1;
  }

  // -------------------------------------------------------------------------- pointing at

  /** The batch that is pointed at, or the nearest one very close by. */
  at(event) {
    const worker = this.workers()[Math.floor((event.offsetY - AXIS) / LANE)];
    let found = null;
    let nearest = NEAR;
    for (const batch of this.shown()) {
      if (batch.worker !== worker) continue;
      const [left, right] = this.extent(batch);
      const away = Math.max(left - event.offsetX, event.offsetX - right, 0);
      if (away <= nearest) [found, nearest] = [batch, away];
    }
    return found;
  }

  select(batch, fixed) {
    if (batch === null && this.selected === null) return;
    this.selected = batch === null ? null : { batch, fixed };
    this.detail();
    this.draw();
  }

  detail() {
    const node = byId("details");
    const batch = this.selected?.batch;
    if (!batch) {
      node.replaceChildren(
        make("p", { className: "empty", textContent: "Point at a batch to see who was in it." }),
      );
      return;
    }
    const shown = batch.rows.slice(0, ROWS_SHOWN);
    const more = batch.rows.length - shown.length;
    node.replaceChildren(
      make(
        "p",
        { className: "batch" },
        swatch(this.colours.name(batch.model)),
        make("strong", { textContent: `${plain(batch.model)} ${plain(batch.version)}` }),
        ` on ${plain(batch.worker)}, generation ${batch.generation} · batch ${batch.id}`,
      ),
      make("p", { textContent: this.story(batch) }),
      table(batch, shown),
      make("p", { className: "quiet", textContent: more > 0 ? `and ${more} more` : "" }),
    );
  }

  story(batch) {
    const at = clock(this.store.unix(beginUs(batch)), 3);
    const waited = batch.started_us - batch.staged_us;
    const ahead = waited > 0 ? `, staged ${milliseconds(waited)} ms ahead` : "";
    switch (batch.end) {
      case "finished":
        return batch.error
          ? `${at}: failed, ${plain(batch.error)}`
          : `${at}: gathered in ${milliseconds(batch.batch_us)} ms, ` +
              `executed in ${milliseconds(batch.execute_us)} ms${ahead}`;
      case "revoked":
        return `${at}: staged, and taken back ${milliseconds(
          batch.ended_us - batch.staged_us,
        )} ms later; its rows were queued again`;
      case "lost":
        return `${at}: its worker ended ${milliseconds(batch.ended_us - beginUs(batch))} ms later`;
      default:
        return batch.started_us ? `${at}: it runs` : `${at}: staged, it waits for its turn`;
    }
  }
}

function table(batch, rows) {
  const heading = (label, number) =>
    make("th", { scope: "col", textContent: label, className: number ? "number" : "" });
  const cell = (text, name = "") => make("td", { textContent: text, className: name });
  return make(
    "table",
    {},
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        heading("robot"),
        heading("queue ms", true),
        heading("slack ms", true),
        heading("outcome"),
      ),
    ),
    make(
      "tbody",
      {},
      ...rows.map(([client, received, slack, outcome]) => {
        const begun = batch.started_us || batch.ended_us || batch.staged_us;
        const late = slack !== null && slack < 0;
        return make(
          "tr",
          {},
          cell(plain(client)),
          cell(milliseconds(begun - received), "number"),
          cell(slack === null ? "-" : milliseconds(slack), late ? "number bad" : "number"),
          cell(outcome === "OK" && late ? "OK, late" : (outcome ?? "-"), late ? "bad" : ""),
        );
      }),
    ),
  );
}

function swatch(name) {
  return make("span", { className: `swatch ${name}` });
}
