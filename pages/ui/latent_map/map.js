// The latent map: what it shows, and its verbs. The files before this in the one module hold its parts.

const POINT_RADIUS = 2.2; // CSS pixels
const NEAR = 14; // CSS pixels within which a class is said to be near
const MOVE_TIME = 450; // milliseconds that points take to a new place
const N_SAMPLES = 50; // of a posterior
const TILE_DELAY = 150; // milliseconds between two looks at tiles that are being made
const MAX_CORNERS = 400; // of an outline that the server is told
const REPORT_DELAY = 300; // milliseconds that the crosshair rests before the server is told
const RING_REACH = 22; // CSS pixels from a pin within which the ring lies over it
const ALL_HIDDEN = "All classes are hidden, so there is no image to pick.";
const CROSSHAIR = "M8,0 A8,8 0 1 1 -8,0 A8,8 0 1 1 8,0 M5,0 H14 M-5,0 H-14 M0,5 V14 M0,-5 V-14"; // about its middle

class LatentMap {
  constructor(root) {
    this.root = root; // .latent-map
    this.pins = []; // up to two spots, {x, y, index}: index is that of the image that the spot stands for, or null
    this.active = 0; // the pin last touched: the posterior and the neighbours below the map are its
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
          <canvas class="over" tabindex="0" role="application" aria-label="Latent map"
            aria-describedby="map-help"></canvas>
          <svg class="marks" aria-hidden="true">
            <g class="crosshair"><path d="${CROSSHAIR}"/><path d="${CROSSHAIR}"/></g>
            ${PIN_NAMES.map((name) => `
              <g class="pin" display="none"><circle r="9"/><text dy="4">${name}</text></g>`).join("")}
          </svg>
          <button class="epsilon" hidden aria-label="Sample of the posterior: arrow keys move it"></button>
          <div class="hover" aria-hidden="true"></div>
          <div class="tools">
            <button data-do="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
            <button data-do="out" aria-label="Zoom out" title="Zoom out (−)">−</button>
            <button data-do="fit" aria-label="Show all points" title="Show all points (0)">⤢</button>
            <button data-do="full" aria-label="Full screen" title="Full screen, for a projector">
              <svg viewBox="0 0 12 12" aria-hidden="true">
                <path d="M1,4 V1 H4 M8,1 H11 V4 M11,8 V11 H8 M4,11 H1 V8"/></svg></button>
          </div>
          <span id="map-help" class="sr-only">Arrow keys move the crosshair, Shift makes the steps finer, Enter pins
            the spot under it, Escape ends a drag, the selection or the pins, plus and minus zoom, 0 shows all
            points.</span>
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
    this.ring = find(".epsilon");
    this.hover = find(".hover");
    this.status = find(".stage [role=status]");
    this.notice = find(".notice");
    this.legend = find(".legend");
    this.scaleBar = find(".scale");
    find("[data-do=full]").hidden = !document.fullscreenEnabled;
    this.panel = new Panel(find(".panel"), {
      save: () => this.panel.save(this.header.name),
      clear: () => this.clearPins(),
      redraw: () => this.redrawSample(),
      zoom: () => this.zoomToPosterior(),
    });
    this.controls = new Controls(find(".controls"), {
      layers: (layers) => this.setLayers(layers),
      colour: (colour) => this.setColour(colour),
      select: (what) => this.startSelection(what),
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
    this.gestures = new Gestures(this.over, this);
    this.root.querySelector(".tools").addEventListener("click", (event) => this.useTool(event));
    const at = () => this.view.toScreen(this.posterior.spot());
    listenToRing(this.ring, this.over, at, (px, py) => this.moveSample(this.view.toData(px, py)));
    this.resizeObserver = new ResizeObserver(() => this.resize());
    try {
      this.resizeObserver.observe(this.stage, { box: "device-pixel-content-box" }); // tells of a new density too
    } catch {
      this.resizeObserver.observe(this.stage); // Safari
    }
    this.idle = new IdleWork((timeLeft) => this.makeTiles(timeLeft));
    // Streamlit's theme is CSS variables on an ancestor: redraw when the page's look changes.
    this.themeTimer = setInterval(() => {
      if (!this.look || !this.isReady) return;
      if (JSON.stringify(readLook(this.root)) !== JSON.stringify(this.look)) this.redraw();
    }, 500);
  }

  destroy() {
    this.resizeObserver.disconnect();
    this.idle.stop();
    clearInterval(this.themeTimer);
    clearTimeout(this.linkTimer);
    clearTimeout(this.reportTimer);
    this.pictures?.stop?.();
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.showFrame);
    cancelAnimationFrame(this.tileFrame);
    this.card?.destroy();
    this.root.map = null;
    this.root.replaceChildren();
  }

  // Data

  load(data) {
    if (data.header.version === this.header?.version) return;
    const isNew = data.header.id !== this.header?.id;
    const before = isNew ? null : this.plane;
    this.header = data.header;
    this.plane = new Plane(data);
    this.decoder = data.weights ? makeDecoder(this.header, toFloats(data.weights)) : null;
    const ask = (question) => this.tell("decode", question);
    this.pictures?.stop?.();
    this.pictures = this.decoder ? new LocalPictures(this.decoder) : new RemotePictures(ask);
    this.classColours = this.header.colours.map(fromHex);
    this.tileLayers = {}; // made when first shown
    this.density = null;
    this.prepareDocument();
    if (isNew) {
      this.view = new View(this.plane.extent());
      this.restore();
    } else {
      this.view.extent = this.plane.extent();
      this.plane.hidden = before.hidden;
    }
    this.settlePins();
    if (isNew && (this.pins.length || this.plane.hidden.size)) this.reportSpot();
    this.moveFrom(before);
    buildLegend(this.legend, this.plane, this.classColours, (label) => this.toggleClass(label));
    this.showNotice();
    this.showColour();
    this.resize();
    this.showPins();
    this.show(this.spot);
  }

  /** What of the document depends on the data. */
  prepareDocument() {
    const { id, height, decodes, tools, values } = this.header;
    const possible = layersFor(this.plane, this.decoder);
    this.available = tools ? possible : possible.filter((name) => DEFAULT_LAYERS.includes(name));
    this.root.dataset.map = id;
    this.stage.style.setProperty("--map-height", `${height}px`);
    this.panel.element.hidden = !decodes;
    this.controls.element.hidden = !tools;
    this.controls.build(this.available, values);
  }

  /** The link comes first, then what this tab remembers of this map; at last everything in view. */
  restore() {
    const { id, linked, tools } = this.header;
    const settings = (tools && tabMemory.read("settings")) || {};
    const link = readLink(linked ? location.search : "");
    if (link.view && !this.view.reaches(link.view)) {
      link.view = null;
      link.unread.push("view");
    }
    const saysWhere = link.view || link.pins || link.unread.length; // then that is all that is shown
    const last = tabMemory.read(id) ?? {}, kept = saysWhere ? {} : last;
    const place = link.view ?? kept.view;
    if (place) this.view.show(place);
    this.pins = link.pins ?? kept.pins?.filter(Boolean) ?? [];
    this.active = this.pins.length - 1;
    this.wantedColour = link.colour ?? settings.colour ?? "";
    const { unread } = link;
    if (link.colour && link.colour !== settings.colour && !this.colour) unread.push("colour");
    this.problem = unread.length ? `What the link says of ${unread.join(" and ")} can't be read and is left out.` : "";
    this.spot = kept.spot ?? null;
    this.wanted = link.layers ?? settings.layers ?? DEFAULT_LAYERS; // also those that mean nothing on this map
    this.layers = this.wanted.filter((name) => this.available.includes(name));
    this.plane.hidden = new Set(link.hidden ?? kept.hidden ?? []);
    this.outline = kept.outline ?? [];
    if (last.outline?.length) this.tellSelection(); // the server may still have that one, or be another
    this.tool = null;
  }

  /** The number that colours the points, where this map has the one that is wanted; else "", by class. */
  get colour() {
    return this.header.values.some(({ name }) => name === this.wantedColour) ? this.wantedColour : "";
  }

  /** Writes down what is shown: for this tab, and for the address where the page's link means this map. */
  remember() {
    const view = this.view.place();
    const pins = this.pins.map(({ x, y }) => ({ x, y }));
    const { wanted: layers, colour, outline } = this, hidden = [...this.plane.hidden];
    tabMemory.write(this.header.id, { view, pins, spot: this.spot, outline, hidden });
    if (this.header.tools) tabMemory.write("settings", { layers, colour: this.wantedColour });
    if (!this.header.linked) return;
    clearTimeout(this.linkTimer);
    this.linkTimer = setTimeout(() => {
      const usual = String(layers) === String(DEFAULT_LAYERS);
      const state = { view, pins, layers: usual ? null : layers, colour, hidden };
      const fields = linkWith(location.search, state);
      history.replaceState(history.state, "", `${location.pathname}${fields && `?${fields}`}${location.hash}`);
    }, LINK_DELAY);
  }

  /** Says what went wrong here. */
  say(sentence) {
    this.problem = sentence;
    this.showNotice();
  }

  /** A line under the map: what the server found wrong with the data, and what went wrong here. */
  showNotice() {
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
    this.wantedColour = colour;
    this.showColour();
  }

  showColour() {
    this.colourPoints();
    this.showControls();
  }

  setLayers(layers) {
    const hadPosterior = this.hasPosterior;
    const others = this.wanted.filter((name) => !this.available.includes(name)); // for maps where they mean something
    this.layers = layers;
    this.wanted = Object.keys(LAYERS).filter((name) => layers.includes(name) || others.includes(name));
    if (this.hasPosterior && !this.pins.length) this.pins = [this.spot];
    if (this.hasPosterior !== hadPosterior) this.settleAgain();
    this.showControls();
    this.redraw();
  }

  get hasPosterior() {
    return this.layers.includes("posterior");
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
    this.say("");
    this.colourPoints();
    if (this.picksImages) this.settleAgain();
    if (this.outline.length) this.tellSelection();
    this.remember();
  }

  // View

  get isReady() {
    return Boolean(this.view?.isReady && this.root.isConnected); // taken off the page, it has no look
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage; // without its border
    if (!width || !height || !this.view) return;
    this.view.resize(width, height, window.devicePixelRatio || 1);
    this.draw(); // at once: a resized canvas is blank
  }

  /** The view has changed. */
  viewChanged() {
    this.remember();
    this.redraw();
  }

  fit() {
    this.view.fit();
    this.viewChanged();
  }

  pan(dx, dy) {
    this.view.pan(dx, dy);
    this.redraw(); // remembered at its end
  }

  zoomAt(px, py, factor) {
    this.view.zoomAt(px, py, factor);
    this.viewChanged();
  }

  useTool(event) {
    const what = event.target.closest("button")?.dataset.do;
    const middle = [this.view.width / 2, this.view.height / 2];
    if (what === "in") this.zoomAt(...middle, 1.5);
    else if (what === "out") this.zoomAt(...middle, 1 / 1.5);
    else if (what === "fit") this.fit();
    else if (what === "full") this.toggleFullScreen();
  }

  toggleFullScreen() {
    const done = document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen();
    done.catch(() => this.say("This browser does not allow full screen here."));
  }

  leave() {
    this.hover.textContent = "";
    this.show(this.spot);
  }

  // Spots and pins

  /** Whether a place stands for an image: the plane has no way back, or a posterior is asked for. */
  get picksImages() {
    return !this.plane.invertible || this.hasPosterior;
  }

  /** The spot that a place stands for: itself, or that of the nearest image; null if all images are hidden. */
  settle({ x, y }) {
    if (!this.picksImages) return { x, y, index: null };
    const index = this.plane.nearest({ x, y })?.index;
    return index === undefined ? null : { ...this.plane.spotOf(index), index };
  }

  settlePins() {
    const settled = this.pins.map((pin) => this.settle(pin));
    this.pins = settled.filter(Boolean);
    if (settled.includes(null)) this.problem = ALL_HIDDEN;
    this.active = Math.min(this.active, this.pins.length - 1);
    const { x, y } = this.spot ?? { x: 0, y: 0 };
    this.spot = this.pins[this.active] ?? { x, y, index: null };
  }

  /** What places stand for has changed: so have pins, pictures and neighbours. */
  settleAgain() {
    this.settlePins();
    this.showPins();
    this.show(this.spot);
    this.showNotice();
    this.reportSpot();
  }

  /** The crosshair goes there; what lies there is said. */
  moveSpot(spot) {
    this.spot = spot;
    this.remember();
    this.placeMarks();
    this.show(spot);
    this.hover.textContent = this.status.textContent = this.describe(spot);
  }

  /** With no pin, the neighbours below the map are the crosshair's: they follow it when it rests. */
  stepSpot(spot) {
    this.moveSpot(spot);
    clearTimeout(this.reportTimer);
    if (!this.pins.length) this.reportTimer = setTimeout(() => this.reportSpot(), REPORT_DELAY);
  }

  /** Pins a spot: the two latest stay. */
  pin(place) {
    const spot = this.settle(place);
    if (!spot) return this.say(ALL_HIDDEN);
    this.pins = [...this.pins.slice(-1), spot];
    this.active = this.pins.length - 1;
    this.moveSpot(spot);
    this.showPins();
    this.redraw();
    this.reportSpot();
  }

  movePin(k, place) {
    if (!this.pins[k]) return; // cleared while it was dragged
    this.pins[k] = this.settle(place);
    this.active = k;
    this.moveSpot(this.pins[k]);
    this.showPins();
    if (this.posterior) this.redraw();
  }

  /** Tells the server whose neighbours to show: the last touched pin's, else the crosshair's, if it stands for a z. */
  reportSpot() {
    this.remember();
    const pin = this.pins[this.active], { x, y } = pin ?? this.spot;
    const { z, index } = this.zOf(pin ?? this.spot);
    const what = !z ? "nothing" : pin ? "pin" : "crosshair";
    this.tell("click", { x, y, image: index === null ? null : index * this.header.stride, what });
  }

  clearPins() {
    if (!this.pins.length) return;
    this.pins = [];
    this.showPins();
    this.redraw();
    this.reportSpot();
  }

  describe(spot) {
    const near = this.plane.nearest(spot);
    const isNear = near && near.square < (NEAR / this.view.scale) ** 2;
    const parts = [];
    if (this.header.ticks) parts.push(`${decimals(spot.x)}, ${decimals(spot.y)}`);
    if (isNear) parts.push(`near ${this.header.classes[this.plane.labels[near.index]]}`);
    if (this.layers.includes("regions")) {
      const { label, votes, trust } = this.tiles("regions").voter.vote(spot);
      const n_votes = Math.min(N_VOTES, this.plane.order.length);
      if (trust) parts.push(`${votes} of the ${n_votes} nearest are ${this.header.classes[label]}`);
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
      if (this.shown !== this.spot && this.isReady) this.hover.textContent = this.describe(this.shown);
      if (this.shown !== this.decoded) this.show(this.shown);
    });
  }

  decodeShown() {
    const spot = (this.decoded = this.shown);
    const { z, index } = this.zOf(spot);
    if (!z) return this.panel.showNoMain(ALL_HIDDEN);
    const where = spot === this.spot ? "decoded at the crosshair" : "decoded under the pointer";
    const whose = index !== null && `decoded from the z of ${this.nameOf(index)}`;
    const caption = !whose ? where : this.plane.invertible ? whose : `${whose}, the nearest encoded`;
    this.pictures.draw("main", [z], ([source]) => this.panel.showMain(source, caption, z));
  }

  nameOf(index) {
    const { stride, n_held_out } = this.header;
    const image = index * stride, isHeldOut = image < n_held_out;
    const number = (isHeldOut ? image : image - n_held_out).toLocaleString("en");
    const name = isHeldOut ? `image ${number}` : `training image ${number}`;
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
    else this.pictures.draw("pins", zs, (sources) => {
      this.panel.showPins(sources.map((source, k) => ({ source, z: zs[k] })));
    });
    this.showPosterior();
  }

  showPosterior() {
    const index = this.hasPosterior ? (this.pins[this.active]?.index ?? null) : null;
    if (index === null) {
      this.posterior = null;
      this.panel.hidePosterior();
    } else {
      const isShown = this.posterior?.index === index && this.posterior.plane === this.plane;
      if (!isShown) this.posterior = new Posterior(this.plane, index);
      this.showSample();
    }
    this.placeMarks();
  }

  showSample() {
    const { posterior } = this;
    const image = this.nameOf(posterior.index), pin = PIN_NAMES[this.active];
    const whose = `Pin ${pin}: q(z|x) of ${image}, an ellipse at 1 σ and at 2 σ, ${N_SAMPLES} samples`;
    this.pictures.draw("posterior", [posterior.mu, posterior.z()], (sources) => {
      this.panel.showPosterior(posterior, whose, sources);
    });
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
    const { centre } = this.posterior, { width, height } = this.view;
    const sigma = this.posterior.ellipse().long || 1e-3;
    this.view.show({ ...centre, width: (10 * sigma * width) / Math.min(width, height) });
    this.viewChanged();
  }

  // Selection

  showOutline(outline) {
    this.outline = outline;
    this.redraw();
  }

  /** what: box, lasso, view or none, as the buttons say. */
  startSelection(what) {
    if (what === "view") this.selectView();
    else if (what === "none") this.clearSelection();
    else this.setTool(this.tool === what ? null : what);
  }

  clearSelection() {
    const hadOutline = this.outline.length > 0;
    this.outline = [];
    if (hadOutline) this.tellSelection();
    this.setTool(null);
    this.redraw();
  }

  selectView() {
    const { width, height } = this.view;
    this.outline = [[0, 0], [width, 0], [width, height], [0, height]].map((corner) => this.view.toData(...corner));
    this.select();
  }

  select() {
    this.outline = thin(this.outline, MAX_CORNERS);
    this.setTool(null);
    this.redraw();
    this.tellSelection();
  }

  /** Tells the server the outline; what lies inside is found there, where the images are. */
  tellSelection() {
    const outline = this.outline.map(({ x, y }) => [x, y]);
    this.tell("selection", { outline, hidden: [...this.plane.hidden] });
  }

  // Drawing

  redraw() {
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  goOnMoving() {
    this.redraw();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.view?.settle();
    if (!this.isReady) return;
    this.look = readLook(this.root);
    if (this.move) {
      this.placePoints();
      this.goOnMoving();
    }
    this.drawUnder();
    this.drawPoints();
    this.drawOver();
    this.placeMarks();
    this.root.dataset.painted = this.header.id;
  }

  tiles(name) {
    const { plane, decoder, classColours } = this;
    this.tileLayers[name] ??= name === "pictures" ? manifoldLayer(plane, decoder) : regionLayer(plane, classColours);
    return this.tileLayers[name];
  }

  shownTiles() {
    return ["pictures", "regions"].filter((name) => this.layers.includes(name)).map((name) => this.tiles(name));
  }

  drawUnder() {
    const { lower, view, look } = this;
    beginDrawing(lower, view);
    for (const layer of this.shownTiles()) layer.draw(lower, view);
    if (this.layers.includes("density")) {
      this.density ??= new DensityLayer(this.plane);
      this.density.draw(lower, view, look.rgb);
    }
    if (this.header.ticks) drawGrid(lower, view, look, this.header.upward);
    if (this.shownTiles().some((layer) => layer.missing(view).length)) this.idle.start();
  }

  /** A few tiles, drawn now and then; returns whether any are still missing. */
  makeTiles(timeLeft) {
    if (!this.isReady) return false;
    let n_missing = 0;
    for (const layer of this.shownTiles()) {
      const missing = layer.missing(this.view);
      const n_made = layer.make(missing, timeLeft);
      this.n_new += n_made;
      n_missing += missing.length - n_made;
    }
    const isDue = performance.now() > this.lastTiles + TILE_DELAY || !n_missing;
    if (this.n_new && isDue) {
      this.tileFrame ||= requestAnimationFrame(() => {
        this.tileFrame = 0;
        this.drawUnder(); // the rest of the map stays as it is
      });
      [this.n_new, this.lastTiles] = [0, performance.now()];
    }
    return n_missing > 0;
  }

  drawPoints() {
    const zoom = this.view.scale / this.view.fitScale();
    const share = Math.min(2.2, Math.max(0.8, zoom ** 0.3)) * (this.plane.order.length < 2000 ? 1.5 : 1);
    const radius = (POINT_RADIUS * share * this.look.typeSize) / 12; // larger where the type is
    this.painter.canvas.hidden = !this.layers.includes("points");
    const opacity = this.layers.includes("pictures") ? 0.6 : 0.85;
    if (!this.painter.canvas.hidden) this.painter.draw(this.view, radius, opacity);
  }

  drawOver() {
    const { context, view, look } = this;
    beginDrawing(context, view);
    if (this.layers.includes("prior")) drawPrior(context, view, look, this.plane);
    if (this.posterior) drawPosterior(context, view, look, this.posterior);
    if (this.outline.length) drawOutline(context, view, look, this.outline);
    if (this.header.ticks) drawAxisNames(context, view, look, this.header.axis_names);
  }

  /** Crosshair, pins and ring lie above the canvases: to move them, nothing has to be drawn again. */
  placeMarks() {
    if (!this.isReady || !this.spot) return;
    const place = (mark, spot) => {
      mark.setAttribute("display", spot ? "inline" : "none");
      if (spot) mark.setAttribute("transform", `translate(${this.view.toScreen(spot)})`);
    };
    place(this.crosshair, this.header.decodes && this.spot);
    this.pinMarks.forEach((mark, k) => place(mark, this.pins[k]));
    this.ring.hidden = !this.posterior;
    if (!this.posterior) return;
    const [px, py] = this.view.toScreen(this.posterior.spot());
    this.freeThePin(px, py);
    this.ring.style.transform = `translate(${px}px, ${py}px) translate(-50%, -50%)`;
  }

  /** Where the posterior is so small that the ring lies over its pin, a drag there means the pin. */
  freeThePin(px, py) {
    const [x, y] = this.view.toScreen(this.posterior.centre);
    const isSmall = 2 * this.posterior.ellipse().long * this.view.scale < RING_REACH;
    const isOver = isSmall && Math.hypot(px - x, py - y) < RING_REACH;
    this.ring.classList.toggle("over-pin", isOver);
    this.panel.showRingHint(isOver);
  }
}

/** At most so many of the items, evenly chosen. */
function thin(items, most) {
  if (items.length <= most) return items;
  return Array.from({ length: most }, (_, k) => items[Math.floor((k * items.length) / most)]);
}
