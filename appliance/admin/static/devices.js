// The GPUs that workers compute on; nothing where there are none.

import { Table } from "./dom.js";
import { NONE, optional, plain } from "./format.js";

const byId = (id) => document.getElementById(id);
const GIB = 2 ** 30;
const HOT_C = 5; // so close to the temperature at which it slows down it is marked

export class DevicesView {
  constructor(store) {
    this.store = store;
    byId("devices").replaceChildren();
    const known = (key, digits = 0) => (row) => optional(row[key], digits);
    this.table = new Table(
      byId("devices"),
      [
        { key: "device", label: "GPU", text: (row) => plain(row.device) },
        { key: "name", label: "name", text: (row) => plain(row.name) || NONE },
        { key: "workers", label: "workers", text: (row) => row.workers.map(plain).join(", ") },
        { key: "busy", label: "busy %", number: true, text: known("utilisation_percent") },
        { key: "memory", label: "GiB used", number: true, text: memory },
        { key: "heat", label: "°C", number: true, text: known("temperature_c"), mark: heat },
        { key: "clock", label: "MHz", number: true, text: known("clock_mhz") },
        { key: "power", label: "W", number: true, text: known("power_w") },
        { key: "ecc", label: "ECC errors", number: true, text: known("ecc_uncorrected"), mark: ecc },
        { key: "xid", label: "XID", number: true, text: known("last_xid"), mark: xid },
        {
          key: "concerns",
          label: "concerns",
          text: (row) => row.concerns.map(plain).join("; ") || "none",
          mark: (row) => (row.concerns.length ? "warn" : ""),
        },
      ],
      { empty: "" },
    );
  }

  show() {
    const devices = this.store.status.devices ?? []; // an older appliance does not say
    byId("devices").hidden = devices.length === 0;
    this.table.show(devices);
  }
}

function memory(row) {
  if (row.memory_used_bytes === null || row.memory_total_bytes === null) return NONE;
  const [used, total] = [row.memory_used_bytes / GIB, row.memory_total_bytes / GIB];
  return `${used.toFixed(1)} of ${total.toFixed(1)}`;
}

function heat(row) {
  if (row.temperature_c === null || row.slow_from_c === null) return "";
  return row.temperature_c > row.slow_from_c - HOT_C ? "warn" : "";
}

function ecc(row) {
  return row.ecc_uncorrected ? "bad" : "";
}

function xid(row) {
  return row.last_xid === null ? "" : "bad";
}
