// The latent map: what it shows, and what each hand does with it. The files before this in the one module hold its parts.
// Streamlit calls the default export again, on the same DOM, whenever the payload changes.

const POINT_RADIUS = 2.2; // CSS pixels
const CLICK_SLACK = 5; // pointer movement in CSS pixels that still counts as a click
const PIN_REACH = 11; // CSS pixels from a pin within which a drag moves it
const NEAR = 14; // CSS pixels within which a class is said to be near
const MAX_ZOOM = 200;
const MOVE_TIME = 450; // milliseconds that points take to a new place
const N_SAMPLES = 50; // of a posterior
const TILE_DELAY = 150; // milliseconds between two looks at tiles that are being made
const CROSSHAIR = "M8,0 A8,8 0 1 1 -8,0 A8,8 0 1 1 8,0 M5,0 H14 M-5,0 H-14 M0,5 V14 M0,-5 V-14"; // about its middle

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".latent-map");
  if (!root.map) root.map = new LatentMap(root);
  root.map.tell = setTriggerValue; // (name, value): to the server
  root.map.load(data);
  return () => root.map?.destroy();
}

class LatentMap {
  constructor(root) {
    this.root = root;
    this.pointers = new Map();
    this.pins = []; // up to two spots, {x, y, index}: index is that of the image that the spot stands for, or null
    this.outline = []; // of the selection, spots
    this.tool = null; // box, lasso or null
    [this.n_new, this.lastTiles] = [0, 0]; // tiles that were made but not drawn yet, and when some were drawn
    this.build();
    this.listen();
  }

  // Document

  build() {
    this.root.innerHTML = `
      <div class="map">
        <div class="controls"></div>
        <div class="stage">
          <canvas class="under" aria-hidden="true"></canvas>
          <canvas class="over" tabindex="0" role="application" aria-label="Latent map" aria-describedby="map-help"></canvas>
          <svg class="marks" aria-hidden="true">
            <g class="crosshair"><path d="${CROSSHAIR}"/><path d="${CROSSHAIR}"/></g>
            ${PIN_NAMES.map((name) => `<g class="pin" display="none"><circle r="9"/><text dy="4">${name}</text></g>`).join("")}
          </svg>
          <button class="epsilon" hidden aria-label="Sample of the posterior: arrow keys move it"></button>
          <div class="hover" aria-hidden="true"></div>
          <div class="tools">
            <button data-do="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
            <button data-do="out" aria-label="Zoom out" title="Zoom out (−)">−</button>
            <button data-do="fit" aria-label="Show all points" title="Show all points (0)">⤢</button>
            <button data-do="full" aria-label="Full screen" title="Full screen, for a projector">
              <svg viewBox="0 0 12 12" aria-hidden="true"><path d="M1,4 V1 H4 M8,1 H11 V4 M11,8 V11 H8 M4,11 H1 V8"/></svg></button>
          </div>
          <span id="map-help" class="sr-only">Arrow keys move the crosshair, Shift makes the steps finer, Enter pins
            the spot under it, Escape clears the pins, plus and minus zoom, 0 shows all points.</span>
          <span class="sr-only" role="status" aria-live="polite"></span>
        </div>
        <div class="scale" hidden></div>
        <div class="legend" role="group" aria-label="Classes on the map"></div>
        <p class="notice" role="status"></p>
      </div>
      <div class="panel"></div>`;
    const find = (selector) => this.root.querySelector(selector);
    this.stage = find(".stage");
    [this.under, this.over] = [find(".under"), find(".over")];
    [this.lower, this.context] = [this.under.getContext("2d"), this.over.getContext("2d")];
    this.crosshair = find(".crosshair");
    this.pinMarks = [...this.root.querySelectorAll(".pin")];
    this.handle = find(".epsilon");
    this.hover = find(".hover");
    this.status = find(".stage [role=status]");
    this.notice = find(".notice");
    this.legend = find(".legend");
    this.scaleBar = find(".scale");
    find("[data-do=full]").hidden = !document.fullscreenEnabled;
    this.panel = new Panel(find(".panel"), {
      save: () => this.panel.save(this.header.name),
      clear: () => this.clear(),
      redraw: () => this.redrawSample(),
      zoom: () => this.zoomToPosterior(),
    });
    this.controls = new Controls(find(".controls"), {
      layers: (layers) => this.setLayers(layers),
      colour: (colour) => this.setColour(colour),
      select: (tool) => (tool === "view" ? this.selectView() : this.setTool(this.tool === tool ? null : tool)),
    });
    this.usePainter(makePainter(() => this.usePainter(new PixelPainter()), () => this.usePainter(this.card)));
  }

  /** Draws points with this painter from now on. A lost graphics card's is kept for when it is back. */
  usePainter(painter) {
    if (painter instanceof CardPainter) this.card = painter;
    this.painter?.canvas.remove();
    this.painter = painter;
    painter.canvas.className = "points";
    this.under.after(painter.canvas);
    if (!this.plane) return;
    this.placePoints();
    this.colourPoints();
  }

  listen() {
    const { over } = this;
    over.addEventListener("pointerdown", (event) => this.pointerDown(event));
    over.addEventListener("pointermove", (event) => this.pointerMove(event));
    // As it happens, not once a frame; browsers offer it on trusted addresses alone.
    if ("onpointerrawupdate" in window) over.addEventListener("pointerrawupdate", (event) => this.pointerHover(event));
    else over.addEventListener("pointermove", (event) => this.pointerHover(event));
    over.addEventListener("pointerup", (event) => this.pointerUp(event));
    over.addEventListener("pointercancel", (event) => this.pointerCancel(event));
    over.addEventListener("pointerleave", () => this.leave());
    over.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    over.addEventListener("keydown", (event) => this.keyDown(event));
    this.root.querySelector(".tools").addEventListener("click", (event) => this.useTool(event));
    this.listenToHandle();
    this.resizeObserver = new ResizeObserver(() => this.resize());
    try {
      this.resizeObserver.observe(this.stage, { box: "device-pixel-content-box" }); // tells of a new density too
    } catch {
      this.resizeObserver.observe(this.stage); // Safari
    }
    this.idle = new IdleWork((timeLeft) => this.makeTiles(timeLeft));
    // Streamlit's theme is CSS variables on an ancestor: redraw when the page's look changes.
    this.themeTimer = setInterval(() => {
      if (this.look() !== this.lastLook) this.redraw();
    }, 500);
  }

  listenToHandle() {
    const { handle } = this;
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.moveSample(this.toData(...this.at(event)));
    });
    handle.addEventListener("keydown", (event) => {
      const step = arrowStep(event);
      if (!step) return;
      event.preventDefault();
      const [px, py] = this.toScreen(this.posterior.spot());
      this.moveSample(this.toData(px + step[0], py + step[1]));
    });
  }

  destroy() {
    this.resizeObserver.disconnect();
    this.idle.stop();
    clearInterval(this.themeTimer);
    clearTimeout(this.linkTimer);
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.showFrame);
    this.card?.destroy();
    this.root.map = null;
    this.root.replaceChildren();
  }

  // Data

  load(bytes) {
    const data = unpack(bytes);
    if (data.header.version === this.header?.version) return;
    const isNew = data.header.id !== this.header?.id;
    const before = isNew ? null : this.plane;
    this.header = data.header;
    this.plane = new Plane(data);
    this.root.dataset.map = this.header.id;
    this.stage.style.setProperty("--map-height", `${this.header.height}px`);
    this.decoder = data.weights ? makeDecoder(this.header, toFloats(data.weights)) : null;
    this.pictures = this.decoder ? new LocalPictures(this.decoder) : new RemotePictures((question) => this.tell("decode", question));
    this.panel.element.hidden = !this.header.decodes;
    this.classColours = this.header.colours.map(fromHex);
    this.available = this.header.tools ? layersFor(this.plane, this.decoder) : DEFAULT_LAYERS.filter((name) => layersFor(this.plane, this.decoder).includes(name));
    this.tileLayers = {}; // made when first shown
    this.density = null;
    this.extent = this.plane.extent();
    this.controls.element.hidden = !this.header.tools;
    this.controls.build(this.available, this.header.values);
    if (isNew) this.restore();
    else this.plane.hidden = before.hidden;
    this.moveFrom(before);
    buildLegend(this.legend, this.plane, this.classColours, (label) => this.toggleClass(label));
    this.say("");
    this.setColour(this.colour);
    this.pins = this.pins.map((pin) => this.settle(pin));
    this.spot ??= { x: 0, y: 0, index: null };
    this.showPins();
    this.show(this.spot);
  }

  /** The link comes first, then what this tab remembers of this map; at last everything in view. */
  restore() {
    const { id, linked, tools } = this.header;
    const kept = tabMemory.read(id) ?? {};
    const settings = (tools && tabMemory.read("settings")) || {};
    let link = {};
    try {
      if (linked) link = readLink(location.search);
    } catch {
      this.problem = "The link's view can't be read, so the whole map is shown.";
    }
    const known = ({ name }) => name === (link.colour ?? settings.colour);
    this.asked = link.view ?? kept.view ?? null; // x, y and width in data units; null: everything
    this.view = null;
    this.pins = link.pins ?? kept.pins ?? [];
    this.spot = this.pins.at(-1) ?? kept.spot ?? null;
    this.layers = (link.layers ?? settings.layers ?? DEFAULT_LAYERS).filter((name) => this.available.includes(name));
    this.colour = this.header.values.some(known) ? (link.colour ?? settings.colour) : "";
    this.plane.hidden = new Set(link.hidden ?? []);
    this.outline = [];
    this.tool = null;
    if (this.pins.length) this.tell("click", { x: this.spot.x, y: this.spot.y });
  }

  /** Writes down what is shown: for this tab, and for the address where the page's link means this map. */
  remember() {
    const view = this.asked && this.view && { x: this.view.x, y: this.view.y, width: this.width / this.view.scale };
    const pins = this.pins.map(({ x, y }) => ({ x, y }));
    const { layers, colour } = this;
    tabMemory.write(this.header.id, { view, pins, spot: this.spot });
    if (this.header.tools) tabMemory.write("settings", { layers, colour });
    if (!this.header.linked) return;
    clearTimeout(this.linkTimer);
    this.linkTimer = setTimeout(() => {
      const usual = String(layers) === String(DEFAULT_LAYERS);
      const state = { view, pins, layers: usual ? null : layers, colour, hidden: [...this.plane.hidden] };
      const fields = linkWith(location.search, state);
      history.replaceState(history.state, "", `${location.pathname}${fields && `?${fields}`}${location.hash}`);
    }, LINK_DELAY);
  }

  /** A line under the map: what the server found wrong with the data, and what went wrong here. */
  say(sentence) {
    this.problem = sentence || this.problem;
    this.notice.textContent = [...this.header.notices, this.problem].filter(Boolean).join(" ");
  }

  // Points

  /** Points that were there before, as many, go to their new places before one's eyes. */
  moveFrom(before) {
    const same = before && before.points.length === this.plane.points.length;
    this.move = same ? { from: before.points, start: performance.now() } : null;
    this.placePoints();
  }

  placePoints() {
    const { points, order } = this.plane;
    const share = this.move ? Math.min(1, (performance.now() - this.move.start) / MOVE_TIME) : 1;
    const eased = share * share * (3 - 2 * share);
    const places = new Float32Array(2 * order.length);
    order.forEach((i, k) => {
      for (const axis of [0, 1]) {
        const to = points[2 * i + axis], from = this.move?.from[2 * i + axis];
        places[2 * k + axis] = Number.isFinite(from) ? from + eased * (to - from) : to;
      }
    });
    this.painter.setPlaces(places);
    if (share === 1) this.move = null;
  }

  /** By class, or by a number along a ramp. */
  colourPoints() {
    const { order, labels, header } = this.plane;
    const field = header.values.findIndex(({ name }) => name === this.colour);
    const values = field < 0 ? null : this.plane.valuesOf(field);
    const scale = values && new ColourScale(values, header.ramp.map(fromHex));
    const colours = new Uint8Array(4 * order.length);
    order.forEach((i, k) => {
      const colour = scale ? scale.colour(values[i]) : this.classColours[labels[i] % this.classColours.length];
      colours.set(colour, 4 * k);
      colours[4 * k + 3] = this.plane.isShown(i) ? 255 : 0;
    });
    this.painter.setColours(colours);
    this.scaleBar.hidden = !scale;
    if (scale) showScale(this.scaleBar, header.values[field].title, scale);
    this.root.classList.toggle("by-number", Boolean(scale));
    this.redraw();
  }

  setColour(colour) {
    this.colour = colour;
    this.colourPoints();
    this.showControls();
  }

  setLayers(layers) {
    const hadPosterior = this.layers.includes("posterior");
    this.layers = layers;
    if (!hadPosterior && layers.includes("posterior")) {
      if (!this.pins.length) this.pins = [this.spot];
      this.pins = this.pins.map((pin) => this.settle(pin));
      this.spot = this.pins.at(-1);
    }
    this.showPins();
    this.show(this.spot);
    this.showControls();
    this.redraw();
  }

  setTool(tool) {
    this.tool = tool;
    this.showControls();
  }

  showControls() {
    this.controls.show(this);
    this.over.classList.toggle("selecting", this.tool !== null);
    this.remember();
  }

  toggleClass(label) {
    const { hidden } = this.plane;
    if (!hidden.delete(label)) hidden.add(label);
    this.colourPoints();
    this.remember();
  }

  // View: data -> CSS pixels by x' = width / 2 + (x - view.x) * view.scale, y upwards

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage; // without its border
    if (!width || !height) return;
    const span = this.asked && this.view && this.width / this.view.scale;
    Object.assign(this, { width, height, ratio: window.devicePixelRatio || 1 });
    if (span) this.view.scale = width / span;
    this.draw(); // at once: a resized canvas is blank
  }

  fitScale() {
    return 0.9 * Math.min(this.width / this.extent.width, this.height / this.extent.height);
  }

  /** The view that is asked for, else one with nearly all points. */
  settleView() {
    const { asked, extent } = this;
    if (asked && !this.view) this.view = { x: asked.x, y: asked.y, scale: this.width / asked.width };
    else if (!asked) this.view = { x: extent.x, y: extent.y, scale: this.fitScale() };
    this.view.scale = Math.min(this.fitScale() * MAX_ZOOM, Math.max(this.fitScale() / 8, this.view.scale));
  }

  fit() {
    this.asked = null;
    this.remember();
    this.redraw();
  }

  toScreen({ x, y }) {
    return [this.width / 2 + (x - this.view.x) * this.view.scale, this.height / 2 - (y - this.view.y) * this.view.scale];
  }

  toData(px, py) {
    return { x: this.view.x + (px - this.width / 2) / this.view.scale, y: this.view.y - (py - this.height / 2) / this.view.scale };
  }

  zoomAt(px, py, factor) {
    const before = this.toData(px, py);
    this.asked ??= {}; // from now on the view is one's own
    this.view.scale *= factor;
    this.settleView();
    const after = this.toData(px, py);
    this.view.x += before.x - after.x;
    this.view.y += before.y - after.y;
    this.remember();
    this.redraw();
  }

  useTool(event) {
    const what = event.target.closest("button")?.dataset.do;
    if (what === "fit") this.fit();
    else if (what === "full") this.toggleFullScreen();
    else if (what) this.zoomAt(this.width / 2, this.height / 2, what === "in" ? 1.5 : 1 / 1.5);
  }

  toggleFullScreen() {
    const done = document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen();
    done.catch(() => this.say("This browser does not allow full screen here."));
  }

  // Gestures: one finger or the mouse drags the view, a pin, or an outline; two fingers pinch

  at(event) {
    const box = this.over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pointerDown(event) {
    if (event.button !== 0) return;
    this.over.setPointerCapture(event.pointerId);
    const [px, py] = this.at(event);
    this.pointers.set(event.pointerId, { px, py });
    const isFirst = this.pointers.size === 1;
    this.travel = isFirst ? 0 : Infinity; // a second finger makes it a pinch, never a click
    this.gesture = isFirst ? this.gestureAt(px, py, event.shiftKey) : "pinch";
    this.start = { px, py };
    this.travelled = false;
  }

  gestureAt(px, py, shift) {
    if (this.tool ?? (shift && this.header.tools)) return this.tool ?? "box";
    const isNear = (pin) => {
      const [x, y] = this.toScreen(pin);
      return Math.hypot(px - x, py - y) < PIN_REACH;
    };
    const pin = this.pins.findLastIndex(isNear);
    return pin < 0 ? "pan" : pin;
  }

  pointerMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const [px, py] = this.at(event);
    this.travel += Math.hypot(px - last.px, py - last.py);
    this.pointers.set(event.pointerId, { px, py });
    if (this.travel <= CLICK_SLACK) return;
    if (this.gesture === "pinch") this.pinch(event.pointerId, last, px, py);
    else if (this.gesture === "pan") this.pan(px - last.px, py - last.py);
    else if (this.gesture === "box" || this.gesture === "lasso") this.drawOutline(px, py);
    else this.movePin(this.gesture, this.toData(px, py));
  }

  pan(dx, dy) {
    this.over.classList.add("dragging");
    this.asked ??= {};
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.redraw();
  }

  pinch(id, last, px, py) {
    const other = [...this.pointers].find(([each]) => each !== id)?.[1];
    if (!other) return;
    const spread = Math.hypot(px - other.px, py - other.py) / (Math.hypot(last.px - other.px, last.py - other.py) || 1);
    this.zoomAt((px + other.px) / 2, (py + other.py) / 2, spread);
    this.pan((px - last.px) / 2, (py - last.py) / 2); // each of two fingers carries half of the movement
  }

  pointerUp(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.over.classList.remove("dragging");
    const isClick = this.travel <= CLICK_SLACK;
    const { gesture } = this;
    if (gesture === "pinch") {
      this.remember();
      return;
    }
    if (isClick) this.pin(this.toData(...this.at(event)));
    else if (gesture === "pan") this.remember();
    else if (gesture === "box" || gesture === "lasso") this.select();
    else this.reportSpot();
  }

  pointerCancel(event) {
    this.pointers.delete(event.pointerId);
    this.over.classList.remove("dragging");
  }

  pointerHover(event) {
    if (!this.view || this.pointers.size || event.pointerType === "touch") return;
    const spot = this.toData(...this.at(event));
    this.show(spot);
  }

  leave() {
    this.hover.textContent = "";
    this.show(this.spot);
  }

  wheel(event) {
    event.preventDefault();
    this.zoomAt(...this.at(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }

  keyDown(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's own
    const step = arrowStep(event);
    const here = this.toScreen(this.spot);
    if (step) {
      const clamp = (value, limit) => Math.min(limit - 1, Math.max(1, value));
      this.moveSpot(this.toData(clamp(here[0] + step[0], this.width), clamp(here[1] + step[1], this.height)));
    } else if (event.key === "Enter" || event.key === " ") this.pin(this.spot);
    else if (event.key === "Escape") this.clear();
    else if (event.key === "+" || event.key === "=") this.zoomAt(...here, 1.5);
    else if (event.key === "-") this.zoomAt(...here, 1 / 1.5);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  // Spots and pins

  /** The spot that a place stands for: itself; an image's, where there is no way back from the plane or a posterior is asked for. */
  settle({ x, y }) {
    const wantsImage = !this.plane.invertible || this.layers.includes("posterior");
    const index = wantsImage ? (this.plane.nearest({ x, y })?.index ?? null) : null;
    return index === null ? { x, y, index } : { ...this.plane.spotOf(index), index };
  }

  /** The crosshair goes there; what lies there is said. */
  moveSpot(spot) {
    this.spot = spot;
    this.remember();
    this.placeMarks();
    this.show(spot);
    this.status.textContent = this.describe(spot);
  }

  /** Pins a spot: the two latest stay. */
  pin(place) {
    const spot = this.settle(place);
    this.pins = [...this.pins.slice(-1), spot];
    this.moveSpot(spot);
    this.showPins();
    this.redraw();
    this.reportSpot();
  }

  movePin(k, place) {
    this.pins[k] = this.settle(place);
    this.moveSpot(this.pins[k]);
    this.showPins();
    if (this.posterior) this.redraw();
  }

  reportSpot() {
    this.remember();
    this.tell("click", { x: this.spot.x, y: this.spot.y });
  }

  clear() {
    this.pins = [];
    this.setTool(null);
    if (this.outline.length) {
      this.outline = [];
      this.tell("selection", { outline: [], hidden: [] });
    }
    this.showPins();
    this.redraw();
    this.remember();
  }

  describe(spot) {
    const near = this.plane.nearest(spot);
    const isNear = near && near.square < (NEAR / this.view.scale) ** 2;
    const parts = [];
    if (this.header.ticks) parts.push(`${spot.x.toFixed(2)}, ${spot.y.toFixed(2)}`);
    if (isNear) parts.push(`near ${this.header.classes[this.plane.labels[near.index]]}`);
    if (this.layers.includes("regions")) {
      const { label, votes, trust } = this.tiles("regions").voter.vote(spot);
      if (trust) parts.push(`${votes} of the ${Math.min(N_VOTES, this.plane.order.length)} nearest are ${this.header.classes[label]}`);
    }
    return parts.join(", ");
  }

  // Pictures

  /** Decodes a spot: at once, or in the next frame if this one has seen a picture already. */
  show(spot) {
    this.shown = spot;
    if (this.showFrame || !this.plane || !this.header.decodes) return;
    this.decodeShown();
    this.showFrame = requestAnimationFrame(() => {
      this.showFrame = 0;
      if (this.shown !== this.spot && this.view) this.hover.textContent = this.describe(this.shown);
      if (this.shown !== this.decoded) this.show(this.shown);
    });
  }

  decodeShown() {
    const spot = (this.decoded = this.shown);
    const { z, index } = this.zOf(spot);
    if (!z) return;
    const where = spot === this.spot ? "decoded at the crosshair" : "decoded under the pointer";
    const whose = index !== null && `decoded from the z of ${this.nameOf(index)}`;
    const caption = !whose ? where : this.plane.invertible ? whose : `${whose}, the nearest encoded`;
    this.pictures.draw("main", [z], ([source]) => this.panel.showMain(source, caption, z));
  }

  nameOf(index) {
    const { stride, n_held_out } = this.header;
    const image = index * stride;
    const name = image < n_held_out ? `image ${image.toLocaleString("en")}` : `training image ${(image - n_held_out).toLocaleString("en")}`;
    return `${name} (${this.header.classes[this.plane.labels[index]]})`;
  }

  /** {z, index} of a spot: the code of the image that it stands for, if it does. */
  zOf(spot) {
    const index = spot.index ?? null;
    if (index === null) return this.plane.toZ(spot);
    const mu = this.plane.muOf(index);
    return { z: mu && Array.from(mu), index };
  }

  showPins() {
    this.placeMarks();
    const zs = this.pins.map((pin) => this.zOf(pin).z);
    if (!this.header.decodes || zs.includes(null)) return;
    if (!zs.length) this.panel.showPins([]);
    else this.pictures.draw("pins", zs, (sources) => this.panel.showPins(sources.map((source, k) => ({ source, z: zs[k] }))));
    this.showPosterior();
  }

  showPosterior() {
    const index = this.layers.includes("posterior") ? this.pins.at(-1)?.index : null;
    if (index === null || index === undefined) {
      this.posterior = null;
      this.panel.hidePosterior();
    } else {
      if (this.posterior?.index !== index || this.posterior.plane !== this.plane) this.posterior = new Posterior(this.plane, index);
      this.showSample();
    }
    this.placeMarks();
  }

  showSample() {
    const { posterior } = this;
    const whose = `q(z|x) of ${this.nameOf(posterior.index)}: an ellipse at 1 σ and at 2 σ, ${N_SAMPLES} samples`;
    this.pictures.draw("posterior", [posterior.mu, posterior.z()], (sources) => this.panel.showPosterior(posterior, whose, sources));
  }

  moveSample(spot) {
    this.posterior.moveTo(spot);
    this.placeMarks();
    this.showSample();
  }

  redrawSample() {
    this.posterior.redraw();
    this.placeMarks();
    this.showSample();
  }

  /** So near that the 2 σ ellipse fills much of the map. */
  zoomToPosterior() {
    const { centre } = this.posterior;
    this.asked = { ...centre, width: (10 * (this.posterior.ellipse().long || 1e-3) * this.width) / Math.min(this.width, this.height) };
    this.view = null;
    this.settleView();
    this.remember();
    this.redraw();
  }

  // Selection

  drawOutline(px, py) {
    const { start } = this;
    const corners = this.gesture === "box" ? [[start.px, start.py], [px, start.py], [px, py], [start.px, py]] : null;
    if (corners) this.outline = corners.map(([x, y]) => this.toData(x, y));
    else this.outline = [...(this.travelled ? this.outline : [this.toData(start.px, start.py)]), this.toData(px, py)];
    this.travelled = true;
    this.redraw();
  }

  selectView() {
    const { width, height } = this;
    this.outline = [[0, 0], [width, 0], [width, height], [0, height]].map(([x, y]) => this.toData(x, y));
    this.select();
  }

  /** Tells the server the outline; what lies inside is found there, where the images are. */
  select() {
    this.travelled = false;
    this.setTool(null);
    this.redraw();
    const outline = thin(this.outline, 400).map(({ x, y }) => [x, y]);
    this.tell("selection", { outline, hidden: [...this.plane.hidden] });
  }

  // Drawing

  look() {
    const style = getComputedStyle(this.root);
    return `${style.color} ${style.fontSize} ${style.getPropertyValue("--st-background-color")}`;
  }

  redraw() {
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.width || !this.plane) return;
    this.settleView();
    this.readLook();
    if (this.move) {
      this.placePoints();
      this.redraw();
    }
    this.drawUnder();
    this.drawPoints();
    this.drawOver();
    this.placeMarks();
    this.root.dataset.painted = this.header.id;
  }

  readLook() {
    const style = getComputedStyle(this.root);
    this.lastLook = this.look();
    this.ink = style.color;
    this.paper = style.getPropertyValue("--st-background-color");
    this.inkColour = this.ink.match(/[\d.]+/g).slice(0, 3).map(Number);
    this.typeSize = Math.max(12, 0.85 * parseFloat(style.fontSize)); // larger on a full screen
    this.font = `${this.typeSize}px ${style.fontFamily}`;
  }

  /** A canvas of the stage's size, cleared, in CSS pixels. */
  begin(canvas, context) {
    fitCanvas(canvas, this.width, this.height, this.ratio);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
  }

  tiles(name) {
    this.tileLayers[name] ??= name === "pictures" ? manifoldLayer(this.plane, this.decoder) : regionLayer(this.plane, this.classColours);
    return this.tileLayers[name];
  }

  shownTiles() {
    return ["pictures", "regions"].filter((name) => this.layers.includes(name)).map((name) => this.tiles(name));
  }

  drawUnder() {
    const { lower, view, width, height } = this;
    this.begin(this.under, lower);
    for (const layer of this.shownTiles()) layer.draw(lower, view, width, height);
    if (this.layers.includes("density")) {
      this.density ??= new DensityLayer(this.plane);
      this.density.draw(lower, view, width, height, this.inkColour);
    }
    if (this.header.ticks) this.drawGrid(lower);
    if (this.shownTiles().some((layer) => layer.missing(view, width, height).length)) this.idle.start();
  }

  /** A few tiles, drawn now and then; returns whether any are still missing. */
  makeTiles(timeLeft) {
    if (!this.view) return false;
    const { view, width, height } = this;
    let n_made = 0, n_missing = 0;
    for (const layer of this.shownTiles()) {
      const missing = layer.missing(view, width, height);
      const n = layer.make(missing, timeLeft);
      n_made += n;
      n_missing += missing.length - n;
    }
    this.n_new += n_made;
    const isDue = performance.now() > this.lastTiles + TILE_DELAY || !n_missing;
    if (this.n_new && isDue) {
      this.redraw();
      this.n_new = 0;
      this.lastTiles = performance.now();
    }
    return n_missing > 0;
  }

  drawPoints() {
    const { view, width, height, ratio } = this;
    const zoom = view.scale / this.fitScale();
    const radius = POINT_RADIUS * Math.min(2.2, Math.max(0.8, zoom ** 0.3)) * (this.plane.order.length < 2000 ? 1.5 : 1);
    this.painter.canvas.hidden = !this.layers.includes("points");
    const opacity = this.layers.includes("pictures") ? 0.6 : 0.85;
    if (!this.painter.canvas.hidden) this.painter.draw(view, width, height, ratio, radius, opacity);
  }

  drawOver() {
    const { context } = this;
    this.begin(this.over, context);
    if (this.layers.includes("prior")) this.drawPrior();
    if (this.posterior) this.drawPosterior();
    if (this.outline.length) this.drawSelection();
    if (this.header.ticks) this.drawAxisNames();
  }

  drawGrid(context) {
    const raw = 70 / this.view.scale; // a line every 70 CSS pixels or more
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((multiple) => multiple * power >= raw) * power;
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const low = this.toData(0, this.height), high = this.toData(this.width, 0);
    const label = (value, px, py, align) => this.text((value * step).toFixed(digits), px, py, align, context, 0.75);
    for (let i = Math.ceil(low.x / step); i * step <= high.x; i++) {
      const [px] = this.toScreen({ x: i * step, y: 0 });
      this.line(context, px, 0, px, this.height, i === 0 ? 0.35 : 0.1);
      if (px > 14 && px < this.width - 14) label(i, px, this.height - 6, "center");
    }
    for (let i = Math.ceil(low.y / step); i * step <= high.y; i++) {
      const [, py] = this.toScreen({ x: 0, y: i * step });
      this.line(context, 0, py, this.width, py, i === 0 ? 0.35 : 0.1);
      if (this.header.upward && py < this.height - 2 * this.typeSize) label(i, 6, py - 4, "left");
    }
  }

  line(context, x1, y1, x2, y2, alpha) {
    context.strokeStyle = this.ink;
    context.globalAlpha = alpha;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
    context.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
    context.stroke();
    context.globalAlpha = 1;
  }

  /** The prior N(0, I) at 1, 2 and 3 standard deviations: circles about the place of z = 0; lines in one dimension. */
  drawPrior() {
    const { context } = this;
    const middle = this.plane.stepOf(this.header.origin.map((value) => -value));
    const [px, py] = this.toScreen(middle);
    for (const sigma of [1, 2, 3]) {
      const radius = sigma * this.view.scale;
      context.strokeStyle = this.ink;
      context.lineWidth = 1;
      context.setLineDash([4, 4]);
      context.globalAlpha = 0.5;
      context.beginPath();
      if (this.header.upward) context.arc(px, py, radius, 0, 2 * Math.PI);
      else for (const x of [px - radius, px + radius]) {
        context.moveTo(x, 0);
        context.lineTo(x, this.height);
      }
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = 1;
      if (this.header.upward) this.text(`${sigma}σ`, px + radius * Math.SQRT1_2, py - radius * Math.SQRT1_2, "center");
      else for (const side of [-1, 1]) this.text(`${side * sigma}σ`.replace("-", "−"), px + side * radius, 16, "center");
    }
  }

  drawPosterior() {
    const { context, posterior, view } = this;
    const [px, py] = this.toScreen(posterior.centre);
    const { long, short, angle } = posterior.ellipse();
    context.fillStyle = this.ink;
    for (const spot of posterior.samples(N_SAMPLES)) {
      const [x, y] = this.toScreen(spot);
      context.beginPath();
      context.arc(x, y, 1.8, 0, 2 * Math.PI);
      context.fill();
    }
    for (const [colour, width] of [[this.paper, 4], [this.ink, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      for (const sigma of [1, 2]) {
        context.beginPath();
        context.ellipse(px, py, sigma * long * view.scale, Math.max(4, sigma * short * view.scale), -angle, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  drawSelection() {
    const { context } = this;
    context.beginPath();
    for (const spot of this.outline) context.lineTo(...this.toScreen(spot));
    context.closePath();
    context.fillStyle = context.strokeStyle = this.ink;
    context.globalAlpha = 0.1;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.setLineDash([6, 3]);
    context.stroke();
    context.setLineDash([]);
  }

  drawAxisNames() {
    const [across, up] = this.header.axis_names;
    this.text(`${across} →`, this.width - 8, this.height - 2 * this.typeSize, "right");
    this.text(`${up} ↑`, this.width - 8, 44 + this.typeSize, "right");
  }

  /** Text that is legible on whatever lies under it. */
  text(string, px, py, align, context = this.context, alpha = 1) {
    context.font = this.font;
    context.textAlign = align;
    context.strokeStyle = this.paper;
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.globalAlpha = alpha;
    context.strokeText(string, px, py);
    context.fillStyle = this.ink;
    context.fillText(string, px, py);
    context.globalAlpha = 1;
  }

  /** Crosshair, pins and sample lie above the canvases: to move them, nothing has to be drawn again. */
  placeMarks() {
    if (!this.view || !this.spot) return;
    this.crosshair.setAttribute("display", this.header.decodes ? "inline" : "none");
    const to = (spot) => `translate(${this.toScreen(spot)})`;
    this.crosshair.setAttribute("transform", to(this.spot));
    this.pinMarks.forEach((mark, k) => {
      mark.setAttribute("display", this.pins[k] ? "inline" : "none");
      if (this.pins[k]) mark.setAttribute("transform", to(this.pins[k]));
    });
    this.handle.hidden = !this.posterior;
    if (!this.posterior) return;
    const [px, py] = this.toScreen(this.posterior.spot());
    this.handle.style.transform = `translate(${px}px, ${py}px) translate(-50%, -50%)`;
  }
}

/** The step of an arrow key in CSS pixels, [dx, dy]; null for another key. */
function arrowStep(event) {
  const step = event.shiftKey ? 2 : 16;
  return { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? null;
}

/** At most so many of the items, evenly chosen. */
function thin(items, most) {
  return items.length <= most ? items : Array.from({ length: most }, (_, k) => items[Math.floor((k * items.length) / most)]);
}
