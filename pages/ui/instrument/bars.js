// The KL (of a point: the variance) of each latent dimension as a bar; those that are not in use are pale.

const BARS = { height: 110, left: 34, top: 6, bottom: 18 }; // CSS pixels

class Bars {
  constructor(element) {
    this.element = element;
    this.most = 0; // nats at the top: it only grows, so that bars do not jump
    element.innerHTML = `<h4></h4><svg height="${BARS.height}" role="img"></svg>
      <p class="note"></p>`;
    this.svg = element.querySelector("svg");
    this.axes = svg("g", { class: "axes" }, this.svg);
    this.bars = [];
    this.resizeObserver = new ResizeObserver(() => this.draw());
    this.resizeObserver.observe(element);
  }

  /** kl: (D,), active: (D,); highest: of all moments, if they are known; header: what the bars and a collapse are. */
  show(kl, active, highest, { bars, bar_unit, collapsed, prior }) {
    Object.assign(this, { kl, active, title: bars, unit: bar_unit, collapsed });
    this.element.querySelector("h4").textContent = bars;
    this.most = Math.max(this.most, highest, prior ? 0.1 : 1e-6);
    this.draw();
  }

  draw() {
    const { kl, active } = this;
    const width = this.element.clientWidth;
    if (!kl || !width) return;
    this.svg.setAttribute("width", width);
    const bottom = BARS.height - BARS.bottom, slot = Math.min(48, (width - BARS.left) / kl.length);
    const y = (value) => bottom - (Math.min(value, this.most) / this.most) * (bottom - BARS.top);
    this.fill(kl.length);
    kl.forEach((value, d) => {
      const bar = this.bars[d], top = y(value);
      const [thick, high] = [Math.max(0.5, slot * 0.82), Math.max(1, bottom - top)];
      const box = { x: BARS.left + d * slot, y: top, width: thick, height: high };
      for (const [key, number] of Object.entries(box)) bar.setAttribute(key, number.toFixed(2));
      bar.setAttribute("class", active[d] ? "bar" : "bar collapsed");
      const what = active[d] ? "" : ", not in use";
      bar.firstChild.textContent = `z${subscript(d + 1)}: ${value.toFixed(2)} ${this.unit}${what}`;
    });
    this.drawAxes(width, slot, y);
    const n_active = active.reduce((sum, is) => sum + is, 0);
    const note = this.element.querySelector(".note");
    note.textContent = `${n_active} of ${kl.length} in use; ${this.collapsed}.`;
    this.svg.setAttribute("aria-label", `${this.title}: ${n_active} of ${kl.length} in use`);
  }

  /** As many bars as dimensions. */
  fill(n) {
    while (this.bars.length < n) {
      const bar = svg("rect", {}, this.svg);
      svg("title", {}, bar);
      this.bars.push(bar);
    }
  }

  drawAxes(width, slot, y) {
    const n = this.kl.length, every = Math.ceil(26 / slot);
    const parts = ticks(0, this.most, 3).map(({ value, text }) => `
      <line x1="${BARS.left}" x2="${width}" y1="${y(value)}" y2="${y(value)}"/>
      <text x="${BARS.left - 4}" y="${y(value)}" dy="4" text-anchor="end">${text}</text>`);
    for (let d = 0; d < n; d += every)
      parts.push(`<text x="${BARS.left + (d + 0.41) * slot}" y="${BARS.height - 4}" text-anchor="middle">
        z${subscript(d + 1)}</text>`);
    this.axes.innerHTML = parts.join("");
  }

  destroy() {
    this.resizeObserver.disconnect();
  }
}
