// Asks the appliance: once a second, one request at a time; less often while nobody looks, or while
// nobody answers.

export const PERIOD_MS = 1000;
export const HIDDEN_MS = 10_000;
export const MOST_MS = 10_000;
const PATIENCE_MS = 5000;
const MOST_PARTS = 6; // documents of the timeline in one round; beyond them something is left out
const FIRST_PARTS = 100; // in the first round: all that is kept

export class Poller {
  /**
   * @param outside fetch, timer, now
   * @param isHidden whether nobody looks
   * @param onRound called with { status, clients, timelines, skipped }
   * @param onFailure called with why, and in how many ms it is tried again
   */
  constructor(outside, { isHidden, onRound, onFailure }) {
    this.outside = outside;
    this.isHidden = isHidden;
    this.onRound = onRound;
    this.onFailure = onFailure;
    this.cursor = "";
    this.status = null;
    this.clients = [];
    this.turn = false;
    this.failures = 0;
    this.running = false;
    this.timer = null;
    this.stopped = false;
  }

  /** Ask at once, and then again and again. Harmless while it is being asked. */
  async poll() {
    if (this.running || this.stopped) return;
    this.running = true;
    this.outside.timer.clear(this.timer);
    let wait = PERIOD_MS;
    const began = this.outside.now();
    try {
      this.onRound(await this.round());
      this.failures = 0;
      wait = Math.max(PERIOD_MS / 4, PERIOD_MS - (this.outside.now() - began));
      if (this.isHidden()) wait = HIDDEN_MS;
    } catch (error) {
      this.failures += 1;
      wait = Math.min(MOST_MS, PERIOD_MS * 2 ** (this.failures - 1));
      this.onFailure(error, wait);
    }
    this.running = false;
    if (!this.stopped) this.timer = this.outside.timer.set(() => this.poll(), wait);
  }

  stop() {
    this.stopped = true;
    this.outside.timer.clear(this.timer);
  }

  async round() {
    await this.look();
    const timelines = [];
    let skipped = 0;
    let more = true;
    let cursor = this.cursor;
    const most = cursor ? MOST_PARTS : FIRST_PARTS;
    while (more && timelines.length < most) {
      const part = await this.get(`/v1/timeline?since=${encodeURIComponent(cursor)}`);
      timelines.push(part);
      cursor = part.cursor;
      skipped += part.missed.batches;
      more = part.more.batches + part.more.drops > 0;
    }
    if (more) {
      skipped += timelines.at(-1).more.batches;
      cursor = (await this.get("/v1/timeline?since=newest")).cursor;
    }
    if (timelines.at(-1).instance !== this.status.instance) await this.look(true);
    this.cursor = cursor; // only now: what a round that failed has read is read again
    return { status: this.status, clients: this.clients, timelines, skipped };
  }

  /** Ask for the status and for the clients: in turn, as each costs the box as much as the rest. */
  async look(both = this.status === null || this.failures > 0) {
    this.turn = !this.turn;
    if (both || this.turn) this.status = await this.get("/v1/status");
    if (both || !this.turn) this.clients = (await this.get("/v1/clients")).clients;
  }

  async get(path) {
    const stop = new AbortController();
    const patience = this.outside.timer.set(() => stop.abort(), PATIENCE_MS);
    try {
      const response = await this.outside.fetch(path, { signal: stop.signal, cache: "no-store" });
      if (!response.ok) throw new Error(`${path}: ${response.status}`);
      return await response.json();
    } finally {
      this.outside.timer.clear(patience);
    }
  }
}
