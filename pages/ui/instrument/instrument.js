// The instrument: what belongs to one moment of a training, shown together. Live, the moment is the latest; in a replay
// a slider chooses it, or it plays.

const PLAY_TIME = 12000; // milliseconds for a whole film, whatever its length
const MOVE_LIMITS = [200, 1000]; // milliseconds that points take on their way from one live moment to the next

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".instrument");
  if (!root.instrument) root.instrument = new Instrument(root);
  if (data) root.instrument.load(unpack(data));
  return () => root.instrument?.destroy();
}

class Instrument {
  constructor(root) {
    this.root = root;
    this.position = 0; // in the film: frames from its start, fractions between two
    this.lastLoad = 0;
    root.innerHTML = `
      <div class="player" hidden>
        <button class="play">Play</button>
        <label>Epoch <input type="range" min="0" step="any" aria-label="Epoch"></label>
      </div>
      <p class="moment"></p>
      <div class="first">
        <section class="forming" aria-label="Latent map of this moment"><div class="latent-map"></div></section>
        <section class="curves" aria-label="Curves"></section>
      </div>
      <div class="pictures">
        <section class="recons" aria-label="Reconstructions">
          <h4></h4>
          <canvas class="examples" role="img" aria-label="Held-out images"></canvas>
          <canvas class="recon" role="img" aria-label="Their reconstructions"></canvas></section>
        <section class="samples" aria-label="Samples">
          <h4></h4>
          <canvas class="sheet" role="img" aria-label="Samples"></canvas></section>
        <section class="bars" aria-label="Latent dimensions"></section>
      </div>
      <p class="waiting">The map, the pictures and the bars appear with the first batches.</p>`;
    const find = (selector) => root.querySelector(selector);
    this.player = find(".player");
    this.play = find(".play");
    this.slider = find("input");
    this.momentLine = find(".moment");
    this.curves = new Curves(find(".curves"), (epoch) => this.scrub(epoch));
    this.map = new FormingMap(find(".latent-map"));
    this.map.tell = () => {}; // a click is nobody's business but the map's
    find(".latent-map").map = this.map;
    this.bars = new Bars(find(".bars"));
    this.canvases = Object.fromEntries(["examples", "recon", "sheet"].map((name) => [name, find(`canvas.${name}`)]));
    this.slider.addEventListener("input", () => {
      this.stop();
      this.seek(Number(this.slider.value));
    });
    this.play.addEventListener("click", () => (this.playing ? this.stop() : this.start()));
  }

  load(data) {
    const { header } = data;
    if (header.version === this.data?.header.version) return;
    const before = this.data?.header;
    const isNewFilm = before?.mode !== "replay" || header.id !== before.id;
    this.data = data;
    this.decoder = data.weights ? makeDecoder(header, toFloats(data.weights)) : null;
    const { frames } = header, isReplay = header.mode === "replay";
    this.root.classList.toggle("empty", !frames.length);
    this.curves.show(data.history, header);
    this.player.hidden = !isReplay || frames.length < 2;
    if (!frames.length) return;
    this.points = toFloats(data.points);
    this.n = data.labels.length;
    this.cutExamples();
    this.root.querySelector(".samples h4").textContent = header.samples;
    this.sheets = new Map();
    this.extents = this.makeExtents();
    if (isReplay) {
      this.slider.max = frames.length - 1;
      this.seek(isNewFilm ? frames.length - 1 : Math.min(this.position, frames.length - 1));
    } else this.showLive();
  }

  destroy() {
    this.stop();
    this.curves.destroy();
    this.bars.destroy();
    this.map.destroy();
    this.root.instrument = null;
    this.root.replaceChildren();
  }

  // Moments

  /** The extents of the map at each frame; live, they go on from the last. */
  makeExtents() {
    const first = () => (this.data.header.prior ? FIRST_EXTENT : toEdges(new Plane(this.mapData(0)).extent()));
    let extent = (this.data.header.mode === "live" && this.extents?.at(-1)) || first();
    return this.data.header.frames.map((_, k) => {
      const plane = new Plane(this.mapData(k));
      return (extent = grownExtent(extent, plane.extent()));
    });
  }

  /** What the map takes for frame k. */
  mapData(k, points = this.framePoints(k)) {
    const { header, labels } = this.data, D = header.n_dims;
    const origin = Array.from(this.data.origins.subarray(k * D, (k + 1) * D));
    const axes = [0, 1].map((axis) => Array.from(this.data.axes.subarray((2 * k + axis) * D, (2 * k + axis + 1) * D)));
    const mapHeader = {
      ...header, origin, axes, n: this.n, n_held_out: this.n, stride: 1, tools: false, linked: false, ticks: true,
      values: [], codes: false, decodes: true, version: `${header.version} ${k}`,
    };
    const isLast = k === header.frames.length - 1;
    return { header: mapHeader, labels, points, decoder: isLast ? this.decoder : null };
  }

  framePoints(k) {
    return this.points.subarray(2 * this.n * k, 2 * this.n * (k + 1));
  }

  showLive() {
    const now = performance.now(), [least, most] = MOVE_LIMITS;
    const time = this.lastLoad ? Math.min(most, Math.max(least, now - this.lastLoad)) : 0;
    this.lastLoad = now;
    this.map.advance(this.mapData(0), this.extents[0], isStill() ? 0 : time);
    this.showMoment(0);
  }

  /** Shows a place of the film: the map between two frames, all else at the nearer one. */
  seek(position) {
    const last = this.data.header.frames.length - 1;
    this.position = Math.min(last, Math.max(0, position));
    const k = Math.floor(this.position), next = Math.min(last, k + 1), share = this.position - k;
    const near = Math.round(this.position);
    const from = this.framePoints(k), to = this.framePoints(next);
    const points = share ? from.map((value, i) => value + share * (to[i] - value)) : from;
    this.map.advance(this.mapData(this.position === last ? last : near === last ? last - 1 : near, points),
      mix(this.extents[k], this.extents[next], share), 0);
    this.slider.value = this.position;
    this.showMoment(near);
    const epochs = this.data.header.frames.map(({ epoch }) => epoch);
    this.curves.setCursor(epochs[k] + share * (epochs[next] - epochs[k]));
  }

  scrub(epoch) {
    const { frames } = this.data.header;
    if (frames.length < 2) return;
    this.stop();
    const next = frames.findIndex((frame) => frame.epoch >= epoch);
    if (next < 0) return this.seek(frames.length - 1);
    if (next === 0) return this.seek(0);
    const [a, b] = [frames[next - 1].epoch, frames[next].epoch];
    this.seek(next - 1 + (epoch - a) / (b - a));
  }

  start() {
    const last = this.data.header.frames.length - 1;
    if (this.position >= last) this.seek(0);
    this.playing = true;
    this.play.textContent = "Pause";
    let before = performance.now();
    const step = (now) => {
      if (!this.playing) return;
      this.seek(this.position + ((now - before) * last) / PLAY_TIME);
      before = now;
      if (this.position >= last) this.stop();
      else this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }

  stop() {
    this.playing = false;
    this.play.textContent = "Play";
    cancelAnimationFrame(this.frame);
  }

  // What is said and shown of a frame

  showMoment(k) {
    const { header, kl, active } = this.data, D = header.n_dims;
    const { epoch, step, beta, learning_rate } = header.frames[k];
    const parts = [`epoch ${epoch.toFixed(1)} of ${header.epochs}`, `step ${step.toLocaleString("en")}`];
    if (beta !== null) parts.push(`β ${Number(beta.toPrecision(3))}`);
    if (learning_rate !== null) parts.push(`learning rate ${Number(learning_rate.toPrecision(2))}`);
    this.momentLine.textContent = parts.join(" · ");
    this.slider.setAttribute("aria-valuetext", parts[0]);
    if (this.shownFrame === `${header.version} ${k}`) return;
    this.shownFrame = `${header.version} ${k}`;
    const highest = header.mode === "replay" ? kl.reduce((most, value) => Math.max(most, value), 0) : 0;
    const row = (block) => Array.from(block.subarray(k * D, (k + 1) * D));
    const ownHighest = row(kl).reduce((most, value) => Math.max(most, value), 0);
    this.bars.show(row(kl), row(active), Math.max(highest, ownHighest), header);
    this.showSheet(k);
  }

  /** The sheet of a frame, once it is decoded; if another is wanted by then, that one comes. */
  async showSheet(k) {
    this.wantedSheet = k;
    const { sheets, data } = this;
    if (!sheets.has(k)) {
      const [start, end] = data.header.frames[k].sheet;
      sheets.set(k, createImageBitmap(new Blob([data.sheets.subarray(start, end)], { type: "image/png" })));
    }
    const picture = await sheets.get(k);
    if (this.wantedSheet !== k || this.data !== data) return;
    const row = data.header.image_shape[1] + 1; // the first: reconstructions; pictures lie a pixel apart
    this.cut(this.canvases.recon, picture, 0, row - 1);
    this.cut(this.canvases.sheet, picture, row, picture.height - row);
  }

  async cutExamples() {
    const { data } = this, hasThem = data.examples.length > 0;
    this.canvases.examples.hidden = !hasThem;
    this.root.querySelector(".recons h4").textContent = hasThem
      ? data.header.examples
      : "Reconstructions of held-out images, which are not on this machine";
    if (!hasThem) return;
    const picture = await createImageBitmap(new Blob([data.examples], { type: "image/png" }));
    if (this.data !== data) return;
    const { columns, image_shape } = data.header;
    this.cut(this.canvases.examples, picture, 0, picture.height, columns * (image_shape[2] + 1) - 1);
  }

  cut(canvas, picture, top, height, width = picture.width) {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, top, picture.width, height, 0, 0, picture.width, height);
  }
}

function isStill() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}
