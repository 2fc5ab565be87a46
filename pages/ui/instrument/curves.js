// The curves of a run: three charts, one for each term of the loss, with one range of epochs and one cursor.
// Nodes are made once; what changes is their attributes, so nothing flickers and a zoom stays.

const CURVE_COLOURS = { train: "#4c8ed9", held_out: "#e0803a" };
const CHART = { height: 126, left: 46, right: 8, top: 8, bottom: 24 }; // CSS pixels
const STEEP = 0.05; // share of a run at whose beginning the curves fall so far that it would flatten the rest
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

/** Round numbers from low to high, about n of them. */
function ticks(low, high, n) {
  const power = 10 ** Math.floor(Math.log10((high - low) / n));
  const step = [1, 2, 5, 10].find((multiple) => (multiple * power * n) >= high - low) * power;
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, k) => {
    const value = (first + k) * step;
    return { value, text: value.toFixed(digits).replace("-", "−") };
  });
}

class Curves {
  /** onScrub(epoch): what a drag does in a replay; in a live run a drag zooms. */
  constructor(element, onScrub) {
    this.element = element;
    this.onScrub = onScrub;
    this.range = null; // [low, high] epochs, chosen; else all
    this.cursor = null; // an epoch, in a replay
    element.innerHTML = `
      <p class="key"><span><i style="background:${CURVE_COLOURS.train}"></i>training</span>
        <span><i style="background:${CURVE_COLOURS.held_out}"></i>held-out</span>
        <span class="readout" role="status"></span><button class="all" hidden>Show all</button></p>
      <div class="charts"></div>`;
    this.readout = element.querySelector(".readout");
    this.all = element.querySelector(".all");
    this.all.addEventListener("click", () => this.zoom(null));
    this.charts = [0, 1, 2].map((term) => new Chart(element.querySelector(".charts"), term, this));
    this.resizeObserver = new ResizeObserver(() => this.draw());
    this.resizeObserver.observe(element);
  }

  /** rows: (R, 7) as the payload says, and its header. */
  show(rows, { marks, terms: titles, units, mode, epochs }) {
    Object.assign(this, { rows, marks, titles, units, epochs, isReplay: mode === "replay", n: rows.length / 7 });
    this.draw();
  }

  get last() {
    return this.n ? this.rows[7 * (this.n - 1)] : 0;
  }

  /** The epochs in view; before the first step, all that are to come. */
  get shown() {
    return this.range ?? [0, this.last || this.epochs];
  }

  zoom(range) {
    this.range = range && range[1] - range[0] > 1e-3 * this.last ? range : null;
    this.all.hidden = !this.range;
    this.draw();
  }

  setCursor(epoch) {
    this.cursor = epoch;
    this.charts.forEach((chart) => chart.placeCursor());
  }

  /** The record nearest to an epoch. */
  nearest(epoch) {
    let best = 0;
    for (let i = 1; i < this.n; i++)
      if (Math.abs(this.rows[7 * i] - epoch) <= Math.abs(this.rows[7 * best] - epoch)) best = i;
    return best;
  }

  hover(epoch) {
    this.charts.forEach((chart) => chart.placeHover(epoch));
    if (epoch === null || !this.n) return (this.readout.textContent = "");
    const i = this.nearest(epoch);
    const of = (column) => {
      const value = this.rows[7 * i + column];
      return Number.isFinite(value) ? value.toFixed(Math.abs(value) < 0.1 ? 4 : 2).replace("-", "−") : "–";
    };
    const parts = ["loss", this.titles[1].toLowerCase(), this.titles[2]].filter(Boolean)
      .map((name, term) => `${name} ${of(1 + term)} / ${of(4 + term)}`);
    this.readout.textContent = `epoch ${this.rows[7 * i].toFixed(1)}: ${parts.join(", ")}`;
  }

  draw() {
    if (this.rows) this.charts.forEach((chart) => chart.draw());
  }

  destroy() {
    this.resizeObserver.disconnect();
  }
}

class Chart {
  constructor(parent, term, curves) {
    Object.assign(this, { term, curves });
    this.figure = document.createElement("figure");
    this.title = document.createElement("figcaption");
    this.svg = svg("svg", { height: CHART.height, role: "img" });
    this.figure.append(this.title, this.svg);
    parent.append(this.figure);
    this.axes = svg("g", { class: "axes" }, this.svg);
    this.marks = svg("g", { class: "marks-of-change" }, this.svg);
    const clip = `clip-${Math.random().toString(36).slice(2)}`;
    this.clip = svg("rect", {}, svg("clipPath", { id: clip }, this.svg));
    const lines = svg("g", { "clip-path": `url(#${clip})` }, this.svg);
    this.paths = ["train", "held_out"].map((split) => svg("path", { class: `curve ${split}`, fill: "none",
      stroke: CURVE_COLOURS[split], "stroke-width": split === "train" ? 1.3 : 2 }, lines));
    this.cursor = svg("line", { class: "cursor", visibility: "hidden" }, this.svg);
    this.pointer = svg("line", { class: "pointer", visibility: "hidden" }, this.svg);
    this.selection = svg("rect", { class: "selection", visibility: "hidden" }, this.svg);
    this.listen();
  }

  listen() {
    const epochOf = (event) => {
      const x = event.clientX - this.svg.getBoundingClientRect().left;
      const [low, high] = this.curves.shown;
      const share = (x - CHART.left) / (this.width - CHART.left - CHART.right);
      return low + Math.min(1, Math.max(0, share)) * (high - low);
    };
    let start = null, zooms = false;
    this.svg.addEventListener("pointerdown", (event) => {
      zooms = !this.curves.isReplay || event.shiftKey;
      start = epochOf(event);
      this.svg.setPointerCapture(event.pointerId);
      if (!zooms) this.curves.onScrub(start);
    });
    this.svg.addEventListener("pointermove", (event) => {
      const epoch = epochOf(event);
      this.curves.hover(epoch);
      if (start === null) return;
      if (!zooms) return this.curves.onScrub(epoch);
      this.showSelection(start, epoch);
    });
    const end = (event) => {
      if (start !== null && zooms) {
        const range = [start, epochOf(event)].sort((a, b) => a - b);
        if (event.type === "pointerup" && this.x(range[1]) - this.x(range[0]) > 6) this.curves.zoom(range);
      }
      start = null;
      this.selection.setAttribute("visibility", "hidden");
    };
    this.svg.addEventListener("pointerup", end);
    this.svg.addEventListener("pointercancel", end);
    this.svg.addEventListener("pointerleave", () => this.curves.hover(null));
    this.svg.addEventListener("dblclick", () => this.curves.zoom(null));
  }

  x(epoch) {
    const [low, high] = this.curves.shown;
    return CHART.left + ((epoch - low) / (high - low)) * (this.width - CHART.left - CHART.right);
  }

  y(value) {
    const [low, high] = this.range;
    return CHART.height - CHART.bottom - ((value - low) / (high - low)) * (CHART.height - CHART.top - CHART.bottom);
  }

  /** The values in view, without the steep fall at a run's beginning unless that is what one looks at. */
  yRange() {
    const { rows, n, shown, last, range } = this.curves;
    const from = range ? range[0] : STEEP * last;
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < n; i++) {
      if (rows[7 * i] < from || rows[7 * i] > shown[1]) continue;
      for (const column of [1 + this.term, 4 + this.term]) {
        const value = rows[7 * i + column];
        if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    if (low > high) return [0, 1];
    const margin = 0.06 * (high - low) || Math.max(1e-3, 0.01 * Math.abs(high));
    return [low - margin, high + margin];
  }

  path(column) {
    const { rows, n } = this.curves;
    let d = "", count = 0;
    for (let i = 0; i < n; i++) {
      const value = rows[7 * i + column];
      if (!Number.isFinite(value)) continue;
      d += `${count++ ? "L" : "M"}${this.x(rows[7 * i]).toFixed(1)},${this.y(value).toFixed(1)}`;
    }
    return count === 1 ? `${d}h2` : d; // one point alone is a dot
  }

  draw() {
    const { titles, units, n } = this.curves;
    this.figure.hidden = !titles[this.term]; // a loss without a third part
    this.width = this.figure.clientWidth;
    if (!this.width) return;
    this.range = this.yRange();
    this.svg.setAttribute("width", this.width);
    const inner = { x: CHART.left, y: 0, width: Math.max(0, this.width - CHART.left - CHART.right),
      height: CHART.height - CHART.bottom + 1 };
    for (const [key, value] of Object.entries(inner)) this.clip.setAttribute(key, value);
    this.title.textContent = titles[this.term];
    this.svg.setAttribute("aria-label", [titles[this.term], units[this.term]].filter(Boolean).join(", "));
    this.drawAxes();
    this.drawMarks();
    [1, 4].forEach((first, k) => this.paths[k].setAttribute("d", n ? this.path(first + this.term) : ""));
    this.placeCursor();
  }

  drawAxes() {
    const bottom = CHART.height - CHART.bottom, right = this.width - CHART.right;
    const parts = [];
    for (const { value, text } of this.curves.n ? ticks(...this.range, 4) : []) {
      const y = this.y(value).toFixed(1);
      parts.push(`<line x1="${CHART.left}" x2="${right}" y1="${y}" y2="${y}"/>`,
        `<text x="${CHART.left - 5}" y="${y}" dy="4" text-anchor="end">${text}</text>`);
    }
    for (const { value, text } of ticks(...this.curves.shown, Math.max(2, this.width / 80))) {
      const x = this.x(value);
      parts.push(`<line x1="${x}" x2="${x}" y1="${bottom}" y2="${bottom + 4}"/>`);
      if (x < right - 44) parts.push(`<text x="${x}" y="${bottom + 16}" text-anchor="middle">${text}</text>`);
    }
    parts.push(`<text x="${right}" y="${bottom + 16}" text-anchor="end">epoch</text>`);
    this.axes.innerHTML = parts.join("");
  }

  /** Where someone changed a setting; each label in the first line where it covers no other. */
  drawMarks() {
    const [low, high] = this.curves.shown;
    const slack = 1e-6 * high; // records travel as float32, marks do not
    const shown = this.curves.marks.filter(({ epoch }) => epoch >= low - slack && epoch <= high + slack);
    const ends = []; // of the last label in each line
    this.marks.replaceChildren(...shown.map(({ epoch, text }) => {
      const x = this.x(epoch), group = svg("g");
      svg("line", { x1: x, x2: x, y1: CHART.top, y2: CHART.height - CHART.bottom }, group);
      const isLate = x > this.width - 90, textWidth = 6.5 * text.length;
      const left = isLate ? x - 4 - textWidth : x + 4;
      const line = [...ends, -Infinity].findIndex(end => end < left);
      ends[line] = left + textWidth;
      const label = svg("text", { x: x + (isLate ? -4 : 4), y: CHART.top + 10 + 12 * line,
        "text-anchor": isLate ? "end" : "start" }, group);
      label.textContent = text;
      return group;
    }));
  }

  place(line, epoch) {
    const isShown = epoch !== null && this.width && epoch >= this.curves.shown[0] && epoch <= this.curves.shown[1];
    line.setAttribute("visibility", isShown ? "visible" : "hidden");
    if (!isShown) return;
    const x = this.x(epoch);
    for (const [key, value] of Object.entries({ x1: x, x2: x, y1: CHART.top, y2: CHART.height - CHART.bottom }))
      line.setAttribute(key, value);
  }

  placeCursor() {
    this.place(this.cursor, this.curves.cursor);
  }

  placeHover(epoch) {
    this.place(this.pointer, epoch);
  }

  showSelection(start, end) {
    const [left, right] = [this.x(start), this.x(end)].sort((a, b) => a - b);
    const box = { x: left, width: right - left, y: CHART.top, height: CHART.height - CHART.top - CHART.bottom,
      visibility: "visible" };
    for (const [key, value] of Object.entries(box)) this.selection.setAttribute(key, value);
  }
}
