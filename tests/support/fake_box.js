// A box that is not there: what it would answer to the page, second by second.

class FakeBox {
  constructor(robots, { perSecond = 2, instance = "00000000000000aa" } = {}) {
    this.robots = Array.from({ length: robots }, (_, index) => `robot-${index}`);
    this.perSecond = perSecond;
    this.instance = instance;
    this.nowUs = 40e6;
    this.read = 0; // seconds that are read already
    this.batch = 0;
    this.asked = [];
    this.open = 0;
    this.mostOpen = 0;
    this.more = 0; // so many further parts of the timeline in each round
    this.broken = false;
    this.devices = undefined;
  }

  async fetch(path) {
    this.asked.push(path);
    this.open += 1;
    this.mostOpen = Math.max(this.mostOpen, this.open);
    await Promise.resolve();
    this.open -= 1;
    if (this.broken) throw new TypeError("Failed to fetch");
    return { ok: true, json: async () => this.answer(path) };
  }

  answer(path) {
    if (path === "/v1/status") return this.status();
    if (path === "/v1/clients") return { clients: this.robots.map((id, n) => this.client(id, n)) };
    return this.timeline(path);
  }

  timeline(path) {
    const newest = path.endsWith("newest");
    const cursor = `${this.instance}.${this.batch}.0`;
    const part = {
      instance: this.instance,
      now_us: this.nowUs,
      unix_s: 1.7e9 + this.nowUs / 1e6,
      span_s: 30,
      cursor,
      missed: { batches: 0, drops: 0 },
      more: { batches: newest ? 0 : this.more, drops: 0 },
      running: [],
      batches: [],
      drops: [],
    };
    if (newest || this.read === this.nowUs) return part;
    this.read = this.nowUs;
    for (const [index, client] of this.robots.entries()) {
      for (let time = 0; time < this.perSecond; time += 1) {
        const ended = this.nowUs - 1e6 + ((time + 0.5) / this.perSecond) * 1e6 + index;
        part.batches.push(this.oneBatch(client, Math.round(ended), index));
      }
    }
    part.batches.sort((a, b) => a.ended_us - b.ended_us);
    part.drops.push(this.drop(this.nowUs - 5));
    return part;
  }

  oneBatch(client, ended, index) {
    this.batch += 1;
    return {
      id: this.batch,
      end: "finished",
      model: `model-${index % 2}`,
      version: "1",
      worker: `cpu-${index % 3}`,
      generation: 1,
      staged_us: ended - 6000,
      started_us: ended - 5500,
      finished_us: ended - 500,
      ended_us: ended,
      batch_us: 1000,
      execute_us: 4000,
      error: "",
      rows: [[client, ended - 8000, 1000 * (index + 1) - 3000, "OK"]],
    };
  }

  drop(at) {
    return {
      at_us: at,
      waited_us: 300,
      client: this.robots[0] ?? "nobody",
      model: "model-0",
      outcome: "EXPIRED",
      message: `too late at ${at}`,
      count: 1,
      miss: true,
    };
  }

  client(id, index) {
    return {
      id,
      door: "robots",
      session: id,
      type: "",
      protocol: 1,
      tier: 1,
      connected: true,
      cadence_hz: 10 + index,
      jitter_ms: 0.5,
      observations: this.batch,
      answered: this.batch,
      late: 0,
      misses: 0,
      last_outcome: "OK",
      runs_dry_in_ms: null,
      silent_s: 0.1,
      queued: 0,
      address: "",
    };
  }

  status() {
    const latency = { count: 9, p50: 1000, p90: 2000, p99: 3000, p99_9: 4000, max: 5000 };
    const stages = ["age", "queue", "batch", "execute", "reply", "total", "slack", "lateness"];
    const latencies = Object.fromEntries(stages.map((stage) => [stage, latency]));
    const model = (name) => ({
      name,
      version: "1",
      state: "ready",
      error: null,
      workers: ["cpu-0"],
      queued: 0,
      rows: this.batch,
      batch_size_mean: 1,
      latency_us: latencies,
      outcomes: {},
    });
    return {
      state: "ready",
      reasons: [],
      appliance_id: "fake",
      version: "1.2.3",
      instance: this.instance,
      pid: 1,
      uptime_s: this.nowUs / 1e6,
      binds: ["tcp://127.0.0.1:5555"],
      config_error: "",
      requests: {
        asked: this.batch,
        answered: this.batch,
        in_flight: 0,
        queued: 0,
        per_second: this.robots.length * this.perSecond,
        late: 0,
      },
      outcomes: {},
      replies_lost: {},
      latency_us: latencies,
      models: [model("model-0"), model("model-1")],
      workers: ["cpu-0", "cpu-1", "cpu-2"].map((slot) => ({ slot })),
      devices: this.devices,
      clients: { connected: this.robots.length, known: this.robots.length, disconnects: 0 },
      connections_refused: {},
      arena: { bytes: 1, used: 0, peak: 0 },
      timer_lateness_us: latency,
      ledger: { balanced: true },
    };
  }
}

/** Timers that go off when they are told to. */
class FakeTimers {
  constructor() {
    this.nowMs = 1.7e12;
    this.waiting = new Map();
    this.last = 0;
  }

  set(action, ms) {
    this.last += 1;
    this.waiting.set(this.last, { action, at: this.nowMs + ms });
    return this.last;
  }

  clear(id) {
    this.waiting.delete(id);
  }

  /** Let time pass, and what is due by then happen; requests are answered meanwhile. */
  async pass(ms) {
    const end = this.nowMs + ms;
    for (;;) {
      await settled();
      const due = [...this.waiting].sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due || due[1].at > end) break;
      this.waiting.delete(due[0]);
      this.nowMs = due[1].at;
      due[1].action();
    }
    this.nowMs = end;
    await settled();
  }
}

async function settled() {
  for (let round = 0; round < 60; round += 1) await Promise.resolve();
}

function outsideOf(box, timers, page = document) {
  return {
    document: page,
    fetch: (path) => box.fetch(path),
    timer: timers,
    now: () => timers.nowMs,
  };
}
