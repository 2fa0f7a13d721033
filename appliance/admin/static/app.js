// The page: what is asked goes into the store, and from there to the views.

import { Colours } from "./colours.js";
import { DevicesView } from "./devices.js";
import { make, setText } from "./dom.js";
import { DropsView } from "./drops.js";
import { clock, duration, plain } from "./format.js";
import { HeaderView } from "./header.js";
import { LanesView } from "./lanes.js";
import { LatencyView } from "./latency.js";
import { Poller } from "./poller.js";
import { RobotsView } from "./robots.js";
import { Store } from "./store.js";

const RESTART_SHOWN_MS = 30_000;

export class App {
  /** @param outside document, fetch, timer, now: everything that is not the page itself */
  constructor(outside) {
    this.outside = outside;
    this.store = new Store();
    this.failure = null; // { why, since, again }
    this.restartedAt = null;
    this.heardAt = null;
    this.notices = [];
    this.colours = new Colours(() => this.redraw());
    this.views = [HeaderView, LatencyView, LanesView, DevicesView, RobotsView, DropsView].map(
      (View) => new View(this.store, this.colours),
    );
    this.poller = new Poller(outside, {
      isHidden: () => outside.document.hidden,
      onRound: (round) => this.take(round),
      onFailure: (error, wait) => this.fail(error, wait),
    });
    this.onVisible = () => {
      if (!outside.document.hidden) this.poller.poll();
    };
  }

  start() {
    this.outside.document.addEventListener("visibilitychange", this.onVisible);
    return this.poller.poll();
  }

  stop() {
    this.outside.document.removeEventListener("visibilitychange", this.onVisible);
    this.poller.stop();
    this.outside.timer.clear(this.ticking);
  }

  take(round) {
    const now = this.outside.now();
    if (this.store.take(round)) this.restartedAt = now;
    if (this.restartedAt !== null && now - this.restartedAt > RESTART_SHOWN_MS) {
      this.restartedAt = null;
    }
    this.heardAt = now;
    this.failure = null;
    this.outside.timer.clear(this.ticking);
    if (!this.outside.document.hidden) this.redraw();
    this.notice();
  }

  fail(error, wait) {
    const now = this.outside.now();
    const since = this.failure?.since ?? this.heardAt ?? now;
    this.failure = { why: why(error), since, again: now + wait };
    this.notice();
    this.tick();
  }

  /** Count down to the next try. */
  tick() {
    this.outside.timer.clear(this.ticking);
    this.ticking = this.outside.timer.set(() => {
      if (this.failure === null) return;
      this.notice();
      this.tick();
    }, 1000);
  }

  redraw() {
    if (this.store.status === null) return;
    for (const view of this.views) view.show();
  }

  notice() {
    const now = this.outside.now();
    const found = [];
    document.body.classList.toggle("away", this.failure !== null);
    if (this.failure) {
      const { why: reason, since, again } = this.failure;
      const left = Math.max(0, Math.ceil((again - now) / 1000));
      const known = this.heardAt === null ? "" : " What is shown is of then.";
      found.push([
        "bad",
        `No answer from the appliance since ${clock(since / 1000)} ` +
          `(${duration((now - since) / 1000)}): ${reason}. Asked again in ${left} s.${known}`,
      ]);
    }
    const { status, skipped } = this.store;
    if (this.restartedAt !== null) {
      found.push([
        "warn",
        `The appliance was started anew (noticed at ${clock(this.restartedAt / 1000)}): ` +
          "all figures begin again.",
      ]);
    }
    if (status) {
      for (const reason of status.reasons) found.push(["warn", plain(reason)]);
      if (status.config_error) {
        found.push(["warn", `Configuration not applied: ${plain(status.config_error)}`]);
      }
      if (!status.ledger.balanced) {
        found.push(["bad", "The server's count and the rows that the engines ran do not agree."]);
      }
    }
    if (skipped) {
      found.push([
        "warn",
        `${skipped} batches of the last 30 s came faster than this page reads: ` +
          "figures of 30 s are of the others.",
      ]);
    }
    this.showNotices(found.slice(0, 8));
  }

  showNotices(found) {
    const node = document.getElementById("notices");
    while (node.children.length > found.length) node.lastChild.remove();
    while (node.children.length < found.length) node.append(make("p"));
    found.forEach(([kind, text], index) => {
      node.children[index].className = `notice ${kind}`;
      setText(node.children[index], text);
    });
    document.body.classList.remove("waiting");
  }
}

function why(error) {
  if (error.name === "AbortError") return "it takes longer than 5 s";
  if (error instanceof TypeError) return "nobody listens there";
  return plain(error.message);
}
