// What the page knows: the last 30 s of batches and drops, and a line for each of the last seconds.
// Pure: documents in, figures out. Whatever comes, it holds so much and no more.

export const SPAN_US = 30_000_000;
export const SECOND_US = 1_000_000;
export const MOST_BATCHES = 20_000;
export const MOST_ROWS = 60_000;
export const MOST_DROPS = 5_000;
export const MOST_SECONDS = 300;
export const STAGES = ["queue", "batch", "execute", "reply", "total"];

// A row in a document: client, received_us, slack_us, outcome.
const [CLIENT, RECEIVED, SLACK, OUTCOME] = [0, 1, 2, 3];

export class Store {
  constructor() {
    this.reset("");
  }

  /** Begin anew, for another life of the appliance. */
  reset(instance) {
    this.instance = instance;
    this.status = null;
    this.clients = [];
    this.running = [];
    this.batches = [];
    this.rows = 0;
    this.drops = [];
    this.seconds = []; // { second, models: Map(name -> {p50, p99}), drops: Map(outcome -> count) }
    this.nowUs = 0;
    this.unixS = 0;
    this.skipped = 0; // batches that came faster than they were read, of the last 30 s
    this.skips = [];
    this.slack = null; // what slacks() found, until something comes
  }

  /** Take in one round. Returns whether the appliance was started anew since the last one. */
  take({ status, clients, timelines, skipped }) {
    const last = timelines.at(-1);
    const restarted = this.instance !== "" && this.instance !== last.instance;
    if (this.instance !== last.instance) this.reset(last.instance);
    this.status = status;
    this.clients = clients;
    const since = this.nowUs;
    for (const part of timelines) {
      if (part.instance !== last.instance) continue;
      for (const batch of part.batches) {
        this.batches.push(batch);
        this.rows += batch.rows.length;
      }
      for (const drop of part.drops) this.drops.push(drop);
    }
    this.slack = null;
    this.running = last.running;
    this.nowUs = last.now_us;
    this.unixS = last.unix_s;
    if (skipped) this.skips.push([this.nowUs, skipped]);
    this.forget();
    this.note(since);
    return restarted;
  }

  /** The wall clock, seconds since 1970, at a moment of the appliance. */
  unix(atUs) {
    return this.unixS - (this.nowUs - atUs) / 1e6;
  }

  forget() {
    const oldest = this.nowUs - SPAN_US;
    let gone = 0;
    let rows = this.rows;
    const batches = this.batches;
    while (
      gone < batches.length &&
      (batches[gone].ended_us < oldest ||
        rows > MOST_ROWS ||
        batches.length - gone > MOST_BATCHES)
    ) {
      rows -= batches[gone].rows.length;
      gone += 1;
    }
    batches.splice(0, gone);
    this.rows = rows;
    gone = 0;
    const drops = this.drops;
    while (gone < drops.length && (drops[gone].at_us < oldest || drops.length - gone > MOST_DROPS)) {
      gone += 1;
    }
    drops.splice(0, gone);
    this.skips = this.skips.filter(([at]) => at >= oldest).slice(-100);
    this.skipped = this.skips.reduce((sum, [, count]) => sum + count, 0);
  }

  /** Write a line for each second that is over since `since`. */
  note(since) {
    const end = Math.floor(this.nowUs / SECOND_US);
    const oldest = Math.floor((this.nowUs - SPAN_US) / SECOND_US) + 1;
    const begin = Math.max(Math.floor(since / SECOND_US), oldest, 0);
    if (end <= begin) return;
    const totals = new Map();
    const drops = new Map();
    const within = (second) => second >= begin && second < end;
    for (let index = this.batches.length - 1; index >= 0; index -= 1) {
      const batch = this.batches[index];
      const second = Math.floor(batch.ended_us / SECOND_US);
      if (second < begin) break;
      if (!within(second)) continue;
      for (const row of batch.rows) {
        if (row[OUTCOME] === "OK") {
          const models = entry(totals, second, () => new Map());
          entry(models, batch.model, () => []).push(batch.ended_us - row[RECEIVED]);
        }
      }
    }
    for (const drop of this.drops) {
      const second = Math.floor(drop.at_us / SECOND_US);
      if (!within(second)) continue;
      const outcomes = entry(drops, second, () => new Map());
      outcomes.set(drop.outcome, (outcomes.get(drop.outcome) ?? 0) + drop.count);
    }
    for (let second = begin; second < end; second += 1) {
      const models = new Map();
      for (const [name, values] of totals.get(second) ?? []) models.set(name, summary(values));
      this.seconds.push({ second, models, drops: drops.get(second) ?? new Map() });
    }
    if (this.seconds.length > MOST_SECONDS) {
      this.seconds.splice(0, this.seconds.length - MOST_SECONDS);
    }
  }

  /** Latencies of the last 30 s by model, then stage: {count, p50, p99, max}, microseconds. */
  latencies(stages) {
    const found = new Map();
    for (const batch of this.batches) {
      const models = entry(found, batch.model, () => ({
        rows: 0,
        batches: 0,
        values: Object.fromEntries(stages.map((stage) => [stage, []])),
      }));
      if (batch.end !== "finished") continue;
      models.batches += 1;
      for (const row of batch.rows) {
        if (row[OUTCOME] !== "OK") continue;
        models.rows += 1;
        for (const stage of stages) models.values[stage].push(stageUs(stage, batch, row));
      }
    }
    for (const model of found.values()) {
      model.stages = {};
      for (const stage of stages) model.stages[stage] = summary(model.values[stage]);
      delete model.values;
    }
    return found;
  }

  /** Of each client in the last 30 s: least slack by second, least of all, late ones, misses. */
  slacks() {
    this.slack ??= this.readSlacks();
    return this.slack;
  }

  readSlacks() {
    const found = new Map();
    const newest = Math.floor(this.nowUs / SECOND_US);
    const cells = SPAN_US / SECOND_US;
    const make = () => ({
      cells: new Array(cells).fill(null),
      missed: new Array(cells).fill(0),
      least: null,
      late: 0,
      misses: 0,
      answered: 0,
    });
    const cell = (atUs) => cells - 1 - (newest - Math.floor(atUs / SECOND_US));
    for (const batch of this.batches) {
      const at = cell(batch.ended_us);
      if (at < 0 || at >= cells) continue;
      for (const row of batch.rows) {
        if (row[OUTCOME] !== "OK") continue;
        const client = entry(found, row[CLIENT], make);
        const slack = row[SLACK];
        client.answered += 1;
        if (slack < 0) client.late += 1;
        if (client.least === null || slack < client.least) client.least = slack;
        if (client.cells[at] === null || slack < client.cells[at]) client.cells[at] = slack;
      }
    }
    for (const drop of this.drops) {
      const at = cell(drop.at_us);
      if (!drop.miss || at < 0 || at >= cells) continue;
      const client = entry(found, drop.client, make);
      client.misses += drop.count;
      client.missed[at] += drop.count;
    }
    return found;
  }

  /** Drops of the last 30 s by outcome and model, the most first. */
  causes() {
    const found = new Map();
    for (const drop of this.drops) {
      const cause = entry(found, `${drop.outcome} ${drop.model}`, () => ({
        outcome: drop.outcome,
        model: drop.model,
        count: 0,
        clients: new Map(),
        message: "",
      }));
      cause.count += drop.count;
      cause.clients.set(drop.client, (cause.clients.get(drop.client) ?? 0) + drop.count);
      cause.message = drop.message || cause.message;
    }
    return [...found.values()].sort((a, b) => b.count - a.count);
  }

  /** Answered, of those late, and missed in the last 30 s. */
  totals() {
    const totals = { answered: 0, late: 0, missed: 0 };
    for (const { answered, late, misses } of this.slacks().values()) {
      totals.answered += answered;
      totals.late += late;
      totals.missed += misses;
    }
    return totals;
  }
}

/** When the worker began with a batch, microseconds; of one that it did not: when it was staged. */
export function beginUs(batch) {
  if (batch.end === "finished") return batch.finished_us - batch.batch_us - batch.execute_us;
  return batch.started_us || batch.staged_us;
}

function stageUs(stage, batch, row) {
  switch (stage) {
    case "queue":
      return batch.started_us - row[RECEIVED];
    case "batch":
      return batch.batch_us;
    case "execute":
      return batch.execute_us;
    case "reply":
      return batch.ended_us - batch.finished_us;
    default:
      return batch.ended_us - row[RECEIVED];
  }
}

/** Count, p50, p99 and largest of some numbers; none: all null. */
export function summary(values) {
  const count = values.length;
  if (!count) return { count, p50: null, p99: null, max: null };
  const sorted = Float64Array.from(values).sort();
  const at = (part) => sorted[Math.max(0, Math.ceil(part * count) - 1)];
  return { count, p50: at(0.5), p99: at(0.99), max: sorted[count - 1] };
}

function entry(map, key, make) {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
