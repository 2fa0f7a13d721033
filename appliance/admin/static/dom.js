// Small helpers for the document. Text goes in as text, never as markup: names come from outside.

/** Make an element with properties, attributes (by `attributes`) and children. */
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node, properties);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set a text, if it is another: what stays is not drawn again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** A group of buttons of which one is pressed. */
export class Choices {
  constructor(node, options, chosen, onChoose) {
    this.buttons = new Map();
    for (const [value, label] of options) {
      const button = make("button", { type: "button", textContent: label });
      button.addEventListener("click", () => {
        this.show(value);
        onChoose(value);
      });
      this.buttons.set(value, button);
      node.append(button);
    }
    this.show(chosen);
  }

  show(chosen) {
    this.chosen = chosen;
    for (const [value, button] of this.buttons) {
      button.setAttribute("aria-pressed", String(value === chosen));
    }
  }
}

/** A button that is pressed or not. */
export class Toggle {
  constructor(node, label, onChange) {
    this.button = make("button", { type: "button", textContent: label });
    this.on = false;
    this.onChange = onChange;
    this.button.addEventListener("click", () => this.set(!this.on));
    this.button.setAttribute("aria-pressed", "false");
    node.append(this.button);
  }

  set(on) {
    this.on = on;
    this.button.setAttribute("aria-pressed", String(on));
    this.onChange(on);
  }
}

/**
 * A table that is brought up to date in place.
 *
 * A column: { key, label, title, number, text(row), sort(row), mark(row), swatch(row), draw(canvas, row) }.
 * With `sort`, its heading is a button.
 */
export class Table {
  constructor(node, columns, { empty, sorted = null } = {}) {
    this.columns = columns;
    this.sorted = sorted; // { key, down }
    this.rows = [];
    this.table = make("table");
    this.headings = make("tr");
    this.body = make("tbody");
    this.empty = make("p", { className: "empty", textContent: empty ?? "", hidden: true });
    this.table.append(make("thead", {}, this.headings), this.body);
    node.append(this.table, this.empty);
    this.drawHeadings();
  }

  drawHeadings() {
    this.headings.replaceChildren(
      ...this.columns.map((column) => {
        const heading = make("th", {
          scope: "col",
          className: column.number ? "number" : "",
          title: column.title ?? "",
        });
        if (!column.sort) {
          heading.textContent = column.label;
          return heading;
        }
        const button = make("button", { type: "button", textContent: column.label });
        button.addEventListener("click", () => this.sortBy(column.key));
        heading.append(button);
        return heading;
      }),
    );
    this.markSorted();
  }

  markSorted() {
    this.columns.forEach((column, index) => {
      const heading = this.headings.children[index];
      if (!column.sort) return;
      const here = this.sorted?.key === column.key;
      const order = this.sorted?.down ? "descending" : "ascending";
      heading.setAttribute("aria-sort", here ? order : "none");
    });
  }

  sortBy(key) {
    this.sorted = { key, down: this.sorted?.key === key ? !this.sorted.down : false };
    this.markSorted();
    this.show(this.rows);
  }

  setEmpty(text) {
    setText(this.empty, text);
  }

  /** Show these rows; their elements are used again. */
  show(rows) {
    this.rows = rows;
    const shown = this.inOrder(rows);
    this.table.hidden = shown.length === 0;
    this.empty.hidden = shown.length !== 0;
    while (this.body.children.length > shown.length) this.body.lastChild.remove();
    while (this.body.children.length < shown.length) this.body.append(this.makeRow());
    shown.forEach((row, index) => this.fill(this.body.children[index], row));
  }

  inOrder(rows) {
    const column = this.columns.find((each) => each.key === this.sorted?.key);
    if (!column) return rows;
    const sign = this.sorted.down ? -1 : 1;
    return rows
      .map((row) => [column.sort(row), row])
      .sort(([a], [b]) => {
        if (a === b) return 0;
        if (a === null) return 1; // what is not known comes last, either way
        if (b === null) return -1;
        return a < b ? -sign : sign;
      })
      .map(([, row]) => row);
  }

  makeRow() {
    return make(
      "tr",
      {},
      ...this.columns.map((column) => {
        const cell = make("td");
        if (column.draw) cell.append(make("canvas", { attributes: { "aria-hidden": "true" } }));
        if (column.swatch) cell.append(make("span", { className: "swatch" }), make("span"));
        return cell;
      }),
    );
  }

  fill(node, row) {
    this.columns.forEach((column, index) => {
      const cell = node.children[index];
      const mark = column.mark?.(row) ?? "";
      setClass(cell, `${column.number ? "number " : ""}${mark}`.trim());
      if (column.draw) {
        column.draw(cell.firstChild, row);
      } else if (column.swatch) {
        setClass(cell.firstChild, `swatch ${column.swatch(row)}`);
        setText(cell.lastChild, column.text(row));
      } else {
        setText(cell, column.text(row));
      }
      if (column.title && column.hint) cell.title = column.hint(row);
    });
  }
}

/** Make a canvas as sharp as the screen; returns its context, in CSS pixels. */
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
