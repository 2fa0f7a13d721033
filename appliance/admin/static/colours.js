// Which colour stands for what. The colours themselves are in style.css, for light and dark; they
// can be told apart by people who see colours differently (after Okabe and Ito).

export const MODEL_COLOURS = 8;

/** What kinds of ends there are, and which outcomes belong to each. */
export const GROUPS = [
  ["out of time", ["INFEASIBLE", "EXPIRED"]],
  ["superseded", ["SUPERSEDED"]],
  ["refused", ["SHED", "RATE_LIMITED", "QUEUE_FULL"]],
  ["not there", ["DRAINING", "LOADING", "WORKER_LOST"]],
  ["not valid", ["INVALID", "TOO_LARGE", "UNKNOWN_MODEL", "UNAUTHENTICATED", "FORBIDDEN"]],
  ["engine failed", ["ENGINE_FAILED"]],
  ["client left", ["CANCELLED", "CLIENT_GONE"]],
];

const GROUP_OF = new Map(
  GROUPS.flatMap(([, outcomes], index) => outcomes.map((outcome) => [outcome, index])),
);

/** The number of an outcome's group. */
export function group(outcome) {
  return GROUP_OF.get(outcome) ?? GROUPS.length - 1;
}

/** Colours by name, read from the style sheet again when the scheme changes. */
export class Colours {
  constructor(onChange) {
    this.models = [];
    this.known = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.known.clear();
      onChange();
    });
  }

  get(name) {
    let value = this.known.get(name);
    if (value === undefined) {
      value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
      this.known.set(name, value);
    }
    return value;
  }

  /** Models keep their colour as long as the page is open. */
  name(model) {
    let index = this.models.indexOf(model);
    if (index < 0) {
      index = this.models.length;
      if (index < 256) this.models.push(model);
    }
    return `model-${index % MODEL_COLOURS}`;
  }

  model(model) {
    return this.get(this.name(model));
  }

  group(index) {
    return this.get(`group-${index}`);
  }
}
