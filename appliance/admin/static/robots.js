// Every robot, the one with the least slack first: how it asks, how it is served.

import { sharp, Table } from "./dom.js";
import { NONE, duration, milliseconds, optional, plain } from "./format.js";

const byId = (id) => document.getElementById(id);
const SHOWN = 500;
const [WIDTH, HEIGHT] = [150, 20];

export class RobotsView {
  constructor(store, colours) {
    this.store = store;
    this.colours = colours;
    byId("robots-table").replaceChildren();
    this.table = new Table(
      byId("robots-table"),
      [
        { key: "id", label: "robot", text: (row) => plain(row.id) || NONE, sort: (row) => row.id },
        {
          key: "slack",
          label: "slack, last 30 s",
          title: "least slack of each second; below the line: late; a cross: it went without",
          draw: (canvas, row) => this.draw(canvas, row),
        },
        {
          key: "least",
          label: "least ms",
          title: "least time left to a deadline at the answer in the last 30 s; negative: late",
          number: true,
          text: (row) => (row.own?.least == null ? NONE : milliseconds(row.own.least)),
          sort: (row) => worst(row),
          mark: (row) => (row.own?.least < 0 ? "bad" : ""),
        },
        column("cadence_hz", "Hz", "observations a second", (row) => optional(row.cadence_hz)),
        column("jitter_ms", "jitter ms", "of its cadence", (row) => optional(row.jitter_ms)),
        {
          key: "recent",
          label: "missed, 30 s",
          title: "observations that ended without the action, through no fault of the robot",
          number: true,
          text: (row) => String(row.own?.misses ?? 0),
          sort: (row) => row.own?.misses ?? 0,
          mark: (row) => (row.own?.misses ? "bad" : ""),
        },
        column("misses", "missed", "the same, since it connected", (row) => String(row.misses)),
        column("runs_dry_in_ms", "dry in ms", "when its actions end; negative: dry for so long", (row) =>
          optional(row.runs_dry_in_ms, 0),
        ),
        column("last_outcome", "last", "how the last one ended", (row) =>
          row.last_outcome ? plain(row.last_outcome) : NONE, false),
        {
          key: "here",
          label: "",
          text: (row) => (row.connected ? "here" : `gone ${duration(row.silent_s)}`),
          sort: (row) => (row.connected ? 0 : row.silent_s + 1),
          mark: (row) => (row.connected ? "quiet" : "quiet"),
        },
      ],
      { sorted: { key: "least", down: false } },
    );
    this.table.table.classList.add("fleet");
  }

  show() {
    const { clients, status } = this.store;
    const slacks = this.store.slacks();
    const rows = clients.map((client) => ({ ...client, own: slacks.get(client.id) ?? null }));
    const shown = rows.length > SHOWN ? this.worst(rows) : rows;
    const more = rows.length - shown.length;
    byId("robots-note").textContent = more ? `the first ${SHOWN}; ${more} more are known` : "";
    const bind = status.binds[0] ?? "HOST:5555";
    this.table.setEmpty(
      "No robot has connected yet. On the robot: " +
        `Connection("${plain(bind).replace(/^tcp:\/\//, "")}", client_id="arm-1")`,
    );
    this.table.show(shown);
  }

  worst(rows) {
    return this.table.inOrder(rows).slice(0, SHOWN);
  }

  draw(canvas, { own }) {
    const context = sharp(canvas, WIDTH, HEIGHT);
    const zero = HEIGHT - 7;
    context.fillStyle = this.colours.get("line");
    context.fillRect(0, zero, WIDTH, 1);
    if (!own) return;
    const most = Math.max(1, ...own.cells.map((cell) => Math.abs(cell ?? 0)));
    const step = WIDTH / own.cells.length;
    own.cells.forEach((cell, index) => {
      const left = index * step;
      if (cell !== null && cell >= 0) {
        const height = Math.max(1, (cell / most) * (zero - 1));
        context.fillStyle = this.colours.get("good");
        context.fillRect(left, zero - height, step - 1, height);
      } else if (cell !== null) {
        context.fillStyle = this.colours.get("bad");
        context.fillRect(left, zero + 1, step - 1, 6);
      }
      if (own.missed[index]) {
        context.strokeStyle = this.colours.get("bad");
        context.lineWidth = 1.5;
        context.beginPath();
        context.moveTo(left, 1);
        context.lineTo(left + step - 1, 5);
        context.moveTo(left + step - 1, 1);
        context.lineTo(left, 5);
        context.stroke();
      }
    });
  }
}

/** What a robot is sorted by: least slack; who misses without any answer comes first of all. */
function worst(row) {
  if (row.own === null) return null;
  if (row.own.least === null) return row.own.misses ? -Infinity : null;
  return row.own.least;
}

function column(key, label, title, text, number = true) {
  return { key, label, title, number, text, sort: (row) => row[key] ?? null };
}
