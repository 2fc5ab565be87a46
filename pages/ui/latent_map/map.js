// The latent map on a plain canvas: points by class, pan and zoom. The model decodes under the pointer, here in the
// browser (decoder.js, which stands before this in one module); a click or Enter anywhere pins a spot and reports it.
// Streamlit calls the default export again, on the same DOM, whenever the payload changes.

const POINT_RADIUS = 2.2; // CSS pixels
const CLICK_SLACK = 5; // pointer movement in CSS pixels that still counts as a click
const MAX_ZOOM = 200;
const CROSSHAIR = "M8,0 A8,8 0 1 1 -8,0 A8,8 0 1 1 8,0 M5,0 H14 M-5,0 H-14 M0,5 V14 M0,-5 V-14"; // about its middle

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".latent-map");
  if (!root.map) root.map = new LatentMap(root);
  root.map.report = (spot) => setTriggerValue("click", spot);
  root.map.load(data);
  return () => root.map.destroy();
}

/** bytes -> {header, points x y x y ..., mu (n D, t-SNE only), labels, decoder or null}; see map_payload in __init__.py. */
function unpack(bytes) {
  const copy = bytes.slice(); // what arrives is not aligned to 4 bytes
  const view = new DataView(copy.buffer);
  const headLength = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(copy.subarray(4, 4 + headLength)));
  let start = 4 + headLength;
  const take = (kind, length) => {
    const block = new kind(copy.buffer, start, length);
    start += block.byteLength;
    return block;
  };
  const points = take(Float32Array, 2 * header.n);
  const mu = take(Float32Array, header.n_mu * header.n_dims);
  const decoder = header.layers && makeDecoder(header, (length) => fromHalf(take(Uint16Array, length)));
  return { header, points, mu, decoder, labels: take(Uint8Array, header.n) };
}

/** Pixels in [0, 1], (C H W) with C = 1 or 3, onto a canvas of their size. */
function paint(canvas, pixels, [channels, height, width]) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * pixels[(channels === 3 ? c * n : 0) + i]);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

class LatentMap {
  constructor(root) {
    this.root = root;
    this.report = () => {};
    this.hidden = new Set();
    this.pointers = new Map();
    this.frame = 0;
    this.build();
    this.listen();
  }

  // Document

  build() {
    this.root.innerHTML = `
      <div class="map">
      <div class="stage">
        <canvas class="points" tabindex="0" role="application" aria-label="Latent map" aria-describedby="map-help"></canvas>
        <svg class="crosshair" aria-hidden="true"><g><path d="${CROSSHAIR}"/><path d="${CROSSHAIR}"/></g></svg>
        <div class="hover" aria-hidden="true"></div>
        <div class="tools">
          <button data-do="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
          <button data-do="out" aria-label="Zoom out" title="Zoom out (−)">−</button>
          <button data-do="fit" aria-label="Show all points" title="Show all points (0)">⤢</button>
        </div>
        <span id="map-help" class="sr-only">Arrow keys move the crosshair, Shift makes the steps finer,
          Enter decodes the spot under it, plus and minus zoom, 0 shows all points.</span>
        <span class="sr-only" role="status" aria-live="polite"></span>
      </div>
      <div class="legend" role="group" aria-label="Classes on the map"></div>
      </div>
      <figure class="panel">
        <img alt="Decoded image" aria-label="Decoded image">
        <figcaption></figcaption>
        <p class="z"></p>
        <button data-do="save">Save as PNG</button>
      </figure>`;
    this.stage = this.root.querySelector(".stage");
    this.canvas = this.root.querySelector(".points");
    this.panel = this.root.querySelector(".panel");
    this.picture = this.root.querySelector(".panel img");
    this.caption = this.root.querySelector("figcaption");
    this.zText = this.root.querySelector(".z");
    this.sheet = document.createElement("canvas"); // the decoded picture, one pixel for each of its own
    this.crosshair = this.root.querySelector(".crosshair g");
    this.hover = this.root.querySelector(".hover");
    this.status = this.root.querySelector("[role=status]");
    this.legend = this.root.querySelector(".legend");
    this.context = this.canvas.getContext("2d");
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.pointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.pointerMove(event));
    canvas.addEventListener("pointerup", (event) => this.pointerUp(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.keyDown(event));
    this.root.querySelector(".tools").addEventListener("click", (event) => {
      const what = event.target.closest("button")?.dataset.do;
      if (what === "fit") this.fit();
      else if (what) this.zoomAt(this.width / 2, this.height / 2, what === "in" ? 1.5 : 1 / 1.5);
    });
    this.panel.querySelector("button").addEventListener("click", () => this.save());
    this.resizeObserver = new ResizeObserver(() => this.resize());
    this.resizeObserver.observe(this.stage);
    // Streamlit's theme is CSS variables on an ancestor: redraw when the page's look changes.
    this.themeTimer = setInterval(() => {
      const look = this.look();
      if (look !== this.lastLook) this.redraw();
    }, 500);
  }

  destroy() {
    this.resizeObserver.disconnect();
    clearInterval(this.themeTimer);
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.showFrame);
    this.root.map = null;
  }

  // Data

  load(bytes) {
    if (bytes === this.bytes) return;
    this.bytes = bytes;
    const { header, points, mu, labels, decoder } = unpack(bytes);
    this.stage.style.height = `${header.height}px`;
    const isNew = header.id !== this.header?.id;
    Object.assign(this, { header, points, mu, labels, decoder });
    this.panel.hidden = !decoder;
    this.order = this.shuffledOrder();
    this.extent = this.findExtent();
    if (isNew) {
      this.hidden.clear();
      const kept = this.recall();
      this.view = kept?.view ?? null; // null: fit when the size is known
      this.spot = kept?.spot ?? { x: 0, y: 0 }; // the server begins with the same spot
      this.buildLegend();
      if (kept?.spot) this.report(kept.spot);
    }
    this.redraw();
    this.show(this.spot);
  }

  /** Points of all classes are drawn in one mixed order, so that no class covers another for being drawn last. */
  shuffledOrder() {
    const order = Uint32Array.from({ length: this.header.n }, (_, i) => i);
    let state = 12345;
    for (let i = order.length - 1; i > 0; i--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const j = state % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  /** Where nearly all points lie: a few far ones must not shrink the crowd. */
  findExtent() {
    const range = (offset) => {
      const values = this.points.filter((value, i) => i % 2 === offset && Number.isFinite(value)).sort();
      if (!values.length) return [-3, 3];
      const low = values[Math.floor(0.003 * (values.length - 1))], high = values[Math.ceil(0.997 * (values.length - 1))];
      return high > low ? [low, high] : [low - 1, high + 1];
    };
    const [left, right] = range(0), [bottom, top] = range(1);
    return { x: (left + right) / 2, y: (bottom + top) / 2, width: right - left, height: top - bottom };
  }

  buildLegend() {
    const counts = new Uint32Array(256);
    for (const label of this.labels) counts[label]++;
    this.legend.replaceChildren(...this.header.classes.map((name, i) => {
      const button = document.createElement("button");
      const swatch = document.createElement("i");
      swatch.style.background = this.colour(i);
      button.append(swatch, name);
      button.title = `${counts[i].toLocaleString("en")} held-out images; click to hide or show them`;
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        if (!this.hidden.delete(i)) this.hidden.add(i);
        button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
        this.redraw();
      });
      return button;
    }));
  }

  colour(label) {
    return this.header.colours[label % this.header.colours.length];
  }

  // View: data -> CSS pixels by x' = width / 2 + (x - view.x) * view.scale, y upwards

  resize() {
    const { width, height } = this.stage.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    if (!width || !height) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.draw(); // at once: a resized canvas is blank
  }

  fitScale() {
    return 0.9 * Math.min(this.width / this.extent.width, this.height / this.extent.height);
  }

  fit() {
    this.view = { x: this.extent.x, y: this.extent.y, scale: this.fitScale() };
    this.remember();
    this.redraw();
  }

  toScreen(x, y) {
    return [this.width / 2 + (x - this.view.x) * this.view.scale, this.height / 2 - (y - this.view.y) * this.view.scale];
  }

  toData(px, py) {
    return { x: this.view.x + (px - this.width / 2) / this.view.scale, y: this.view.y - (py - this.height / 2) / this.view.scale };
  }

  zoomAt(px, py, factor) {
    const before = this.toData(px, py);
    const fit = this.fitScale();
    this.view.scale = Math.min(fit * MAX_ZOOM, Math.max(fit / 8, this.view.scale * factor));
    const after = this.toData(px, py);
    this.view.x += before.x - after.x;
    this.view.y += before.y - after.y;
    this.remember();
    this.redraw();
  }

  /** The view and the crosshair outlive a page switch and a refresh, for this browser tab. */
  remember() {
    try {
      sessionStorage.setItem(`latent-map ${this.header.id}`, JSON.stringify({ view: this.view, spot: this.spot }));
    } catch { /* storage is off or full: the view starts anew next time */ }
  }

  recall() {
    try {
      return JSON.parse(sessionStorage.getItem(`latent-map ${this.header.id}`));
    } catch {
      return null;
    }
  }

  // Gestures

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pointerDown(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const [px, py] = this.at(event);
    this.pointers.set(event.pointerId, { px, py });
    this.travel = this.pointers.size === 1 ? 0 : Infinity; // a second finger makes it a pinch, never a click
  }

  pointerMove(event) {
    const [px, py] = this.at(event);
    const last = this.pointers.get(event.pointerId);
    if (!last) return this.showHover(px, py);
    const others = [...this.pointers.entries()].filter(([id]) => id !== event.pointerId);
    this.travel += Math.hypot(px - last.px, py - last.py);
    if (others.length) {
      const other = others[0][1];
      const spread = Math.hypot(px - other.px, py - other.py) / (Math.hypot(last.px - other.px, last.py - other.py) || 1);
      this.zoomAt((px + other.px) / 2, (py + other.py) / 2, spread);
    }
    if (this.travel > CLICK_SLACK) {
      this.canvas.classList.add("dragging");
      const share = others.length ? 2 : 1; // each of two fingers carries half of the movement
      this.view.x -= (px - last.px) / this.view.scale / share;
      this.view.y += (py - last.py) / this.view.scale / share;
      this.redraw();
    }
    this.pointers.set(event.pointerId, { px, py });
  }

  pointerUp(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.canvas.classList.remove("dragging");
    if (this.travel > CLICK_SLACK) this.remember();
    else if (!this.pointers.size) this.pick(this.toData(...this.at(event)));
  }

  wheel(event) {
    event.preventDefault();
    this.zoomAt(...this.at(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }

  keyDown(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's own
    const step = event.shiftKey ? 2 : 16; // CSS pixels
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const spot = this.spot;
    if (moves[event.key]) {
      const [px, py] = this.toScreen(spot.x, spot.y);
      const [dx, dy] = moves[event.key];
      const clamp = (value, limit) => Math.min(limit - 1, Math.max(1, value));
      this.moveSpot(this.toData(clamp(px + dx, this.width), clamp(py + dy, this.height)));
    } else if (event.key === "Enter" || event.key === " ") this.pick(spot);
    else if (event.key === "+" || event.key === "=") this.zoomAt(...this.toScreen(spot.x, spot.y), 1.5);
    else if (event.key === "-") this.zoomAt(...this.toScreen(spot.x, spot.y), 1 / 1.5);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  moveSpot(spot) {
    this.spot = spot;
    this.remember();
    this.placeCrosshair();
    this.show(spot);
    this.status.textContent = this.describe(spot);
  }

  pick({ x, y }) {
    // Without a way back from the plane, a spot stands for an image: the crosshair goes to that one.
    const index = this.header.kind === "tsne" ? this.nearestPoint(x, y) : null;
    const spot = index === null ? { x, y } : { x: this.points[2 * index], y: this.points[2 * index + 1] };
    this.moveSpot(spot);
    this.report(spot);
  }

  describe({ x, y }) {
    const label = this.nearestLabel(x, y, 14);
    const near = label === null ? "" : `, near ${this.header.classes[label]}`;
    return this.header.ticks ? `${x.toFixed(2)}, ${y.toFixed(2)}${near}` : near.slice(2);
  }

  /** The class of the nearest visible point within `reach` CSS pixels, or null. */
  nearestLabel(x, y, reach) {
    let best = (reach / this.view.scale) ** 2;
    let label = null;
    for (let i = 0; i < this.header.n; i++) {
      const dx = this.points[2 * i] - x, dy = this.points[2 * i + 1] - y;
      const distance = dx * dx + dy * dy;
      if (distance < best && !this.hidden.has(this.labels[i])) [best, label] = [distance, this.labels[i]];
    }
    return label;
  }

  showHover(px, py) {
    const spot = this.toData(px, py);
    this.hover.textContent = this.describe(spot);
    this.show(spot);
  }

  leave() {
    this.hover.textContent = "";
    this.show(this.spot);
  }

  // Decoding

  /** A spot of the map -> {z, index}: the z it stands for, and the encoded image whose z that is (t-SNE only). */
  toZ({ x, y }) {
    const { kind, n_dims, origin, axes } = this.header;
    if (kind !== "tsne") return { z: origin.map((value, d) => value + x * axes[0][d] + y * axes[1][d]), index: null };
    const index = this.nearestPoint(x, y);
    return { z: Array.from(this.mu.subarray(index * n_dims, (index + 1) * n_dims)), index };
  }

  nearestPoint(x, y) {
    let best = Infinity, index = 0;
    for (let i = 0; i < this.header.n; i++) {
      const dx = this.points[2 * i] - x, dy = this.points[2 * i + 1] - y;
      const distance = dx * dx + dy * dy;
      if (distance < best && !this.hidden.has(this.labels[i])) [best, index] = [distance, i];
    }
    return index;
  }

  /** Decodes a spot at the next frame: once a frame, however fast the pointer moves. */
  show(spot) {
    if (!this.decoder) return;
    this.shown = spot;
    if (!this.showFrame) this.showFrame = requestAnimationFrame(() => this.decodeShown());
  }

  decodeShown() {
    this.showFrame = 0;
    const { z, index } = this.toZ(this.shown);
    paint(this.sheet, this.decoder.decode(z), this.decoder.shape);
    this.picture.src = this.sheet.toDataURL();
    const pinned = this.shown === this.spot;
    const where = pinned ? "decoded at the crosshair" : "decoded under the pointer";
    this.caption.textContent = index === null ? where
      : `decoded from the z of image ${index.toLocaleString("en")}, the nearest encoded: ${this.header.classes[this.labels[index]]}`;
    this.zText.textContent = `z = (${z.map((value) => value.toFixed(2)).join(", ")})`;
  }

  save() {
    const { width, height } = this.sheet;
    const scale = Math.max(1, Math.round(252 / width));
    const large = Object.assign(document.createElement("canvas"), { width: scale * width, height: scale * height });
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.sheet, 0, 0, large.width, large.height);
    Object.assign(document.createElement("a"), { href: large.toDataURL(), download: `${this.header.name}-decoded.png` }).click();
  }

  // Drawing

  look() {
    const style = getComputedStyle(this.root);
    return `${style.color} ${style.getPropertyValue("--st-background-color")} ${style.getPropertyValue("--st-primary-color")}`;
  }

  redraw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.width || !this.header) return;
    if (!this.view) this.view = { x: this.extent.x, y: this.extent.y, scale: this.fitScale() };
    this.lastLook = this.look();
    const style = getComputedStyle(this.root);
    this.ink = style.color;
    this.paper = style.getPropertyValue("--st-background-color");
    this.font = `12px ${style.fontFamily}`;
    const context = this.context;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (this.header.ticks) this.drawGrid();
    if (this.header.prior) this.drawPrior();
    this.drawPoints();
    if (this.header.prior) this.drawPriorNames();
    if (this.header.ticks) this.drawAxisNames();
    this.placeCrosshair();
    this.root.dataset.painted = this.header.id;
  }

  drawGrid() {
    const context = this.context;
    const raw = 70 / this.view.scale; // a line every 70 CSS pixels or more
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((multiple) => multiple * power >= raw) * power;
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const low = this.toData(0, this.height), high = this.toData(this.width, 0);
    context.font = this.font;
    context.fillStyle = this.ink;
    context.strokeStyle = this.ink;
    context.lineWidth = 1;
    for (let i = Math.ceil(low.x / step); i * step <= high.x; i++) {
      const [px] = this.toScreen(i * step, 0);
      this.line(px, 0, px, this.height, i === 0 ? 0.35 : 0.1);
      context.globalAlpha = 0.7;
      context.textAlign = "center";
      if (px > 14 && px < this.width - 14) context.fillText((i * step).toFixed(digits), px, this.height - 6);
    }
    for (let i = Math.ceil(low.y / step); i * step <= high.y; i++) {
      const [, py] = this.toScreen(0, i * step);
      this.line(0, py, this.width, py, i === 0 ? 0.35 : 0.1);
      context.globalAlpha = 0.7;
      context.textAlign = "left";
      if (this.header.upward && py < this.height - 24) context.fillText((i * step).toFixed(digits), 6, py - 4);
    }
    context.globalAlpha = 1;
  }

  line(x1, y1, x2, y2, alpha) {
    this.context.globalAlpha = alpha;
    this.context.beginPath();
    this.context.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
    this.context.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
    this.context.stroke();
  }

  /** The prior N(0, I): circles at 1, 2 and 3 standard deviations. */
  drawPrior() {
    const context = this.context;
    const [px, py] = this.toScreen(0, 0);
    context.strokeStyle = this.ink;
    context.setLineDash([4, 4]);
    for (const sigma of [1, 2, 3]) {
      const radius = sigma * this.view.scale;
      context.globalAlpha = 0.45;
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  drawPriorNames() {
    const [px, py] = this.toScreen(0, 0);
    for (const sigma of [1, 2, 3]) {
      const offset = sigma * this.view.scale * Math.SQRT1_2;
      this.text(`${sigma}σ`, px + offset, py - offset, "center");
    }
  }

  /** Text over the points, legible on any of them. */
  text(string, px, py, align) {
    const context = this.context;
    context.font = this.font;
    context.textAlign = align;
    context.strokeStyle = this.paper;
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeText(string, px, py);
    context.fillStyle = this.ink;
    context.fillText(string, px, py);
  }

  drawPoints() {
    const zoom = this.view.scale / this.fitScale();
    const radius = POINT_RADIUS * Math.min(2.2, Math.max(0.8, zoom ** 0.3)) * (this.header.n < 2000 ? 1.5 : 1);
    const dots = this.header.classes.map((_, i) => this.dot(this.colour(i), radius));
    const size = dots[0].width / this.ratio;
    const { points, labels, context } = this;
    const left = this.width / 2 - this.view.x * this.view.scale - size / 2;
    const top = this.height / 2 + this.view.y * this.view.scale - size / 2;
    context.globalAlpha = 0.85;
    for (const i of this.order) {
      if (this.hidden.has(labels[i])) continue;
      const px = left + points[2 * i] * this.view.scale;
      const py = top - points[2 * i + 1] * this.view.scale;
      if (px > -size && py > -size && px < this.width && py < this.height) context.drawImage(dots[labels[i]], px, py, size, size);
    }
    context.globalAlpha = 1;
  }

  /** One round point, drawn once and then stamped. */
  dot(colour, radius) {
    const size = Math.ceil((2 * radius + 2) * this.ratio);
    const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const context = canvas.getContext("2d");
    context.fillStyle = colour;
    context.beginPath();
    context.arc(size / 2, size / 2, radius * this.ratio, 0, 2 * Math.PI);
    context.fill();
    return canvas;
  }

  drawAxisNames() {
    const [across, up] = this.header.axis_names;
    this.text(`${across} →`, this.width - 8, this.height - 24, "right");
    this.text(`${up} ↑`, this.width - 8, 56, "right");
  }

  /** The crosshair lies above the canvas: a click need not draw all points again before it is reported. */
  placeCrosshair() {
    this.crosshair.setAttribute("transform", `translate(${this.toScreen(this.spot.x, this.spot.y)})`);
  }
}
