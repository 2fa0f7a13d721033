// The first line: what state the box is in, and how much it does.

import { duration, plain } from "./format.js";
import { setClass, setText } from "./dom.js";

const byId = (id) => document.getElementById(id);

export class HeaderView {
  constructor(store) {
    this.store = store;
  }

  show() {
    const { status } = this.store;
    const state = byId("state");
    state.dataset.state = status.state;
    setText(state, plain(status.state));
    const name = status.appliance_id ? plain(status.appliance_id) : "appliance";
    setText(byId("name"), name);
    document.title = `${status.state === "ready" ? "" : `${status.state}: `}${name}`;
    const about = [
      `appliance ${plain(status.version)}`,
      `up ${duration(status.uptime_s)}`,
      ...status.binds.map(plain),
    ];
    setText(byId("about"), about.join(" · "));
    const { answered, late, missed } = this.store.totals();
    const { requests, clients } = status;
    setText(byId("rate"), `${requests.per_second.toFixed(1)}/s`);
    setText(byId("answered"), String(answered));
    setText(byId("late"), String(late));
    setText(byId("missed"), String(missed));
    setClass(byId("late"), late ? "warn" : "");
    setClass(byId("missed"), missed ? "bad" : "");
    setText(byId("queued"), String(requests.queued));
    setText(byId("connected"), String(clients.connected));
  }
}
