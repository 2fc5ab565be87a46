// A layer of tiles that refines like a street map: coarse ones first, then those of the size that suits the zoom, made
// one at a time while the browser is idle, and kept for when they are needed again.
// Tile (level, i, j) covers x from i to i + 1 and y from j to j + 1, in units of its side, 2^-level of the data's.

const ATLAS_SIDE = 1800; // device pixels; 60 × 60 tiles of 28 × 28 with their margins
const SPARE_TIME = 8, IDLE_DELAY = 40; // milliseconds; see whenIdle
const MARGIN = 1; // pixels around a tile that continue it, so that blurring mixes in nothing of another tile

class TileLayer {
  /**
   * width, height: pixels of one tile; cell: the side on screen that suits, CSS pixels, give or take √2;
   * render(x, y, side): RGBA bytes of the tile whose lower left corner is at x, y, with a margin of a pixel all round.
   */
  constructor({ width, height, cell, render }) {
    Object.assign(this, { width, height, cell, render });
    this.slotWidth = width + 2 * MARGIN;
    this.slotHeight = height + 2 * MARGIN;
    this.nColumns = Math.floor(ATLAS_SIDE / this.slotWidth);
    this.capacity = this.nColumns * Math.floor(ATLAS_SIDE / this.slotHeight);
    this.atlas = Object.assign(document.createElement("canvas"), { width: ATLAS_SIDE, height: ATLAS_SIDE });
    this.context = this.atlas.getContext("2d");
    this.slots = new Map(); // "level i j" -> its place in the atlas; the longest unused comes first
  }

  levelFor(view) {
    return Math.round(Math.log2(view.scale / this.cell));
  }

  /** The tiles that cover the view at a level, from its middle outwards. */
  tilesInView(view, level) {
    const side = 2 ** -level;
    const reach = (length) => length / 2 / view.scale;
    const range = (middle, half) => [Math.floor((middle - half) / side), Math.floor((middle + half) / side)];
    const [left, right] = range(view.x, reach(view.width)), [bottom, top] = range(view.y, reach(view.height));
    const tiles = [];
    for (let i = left; i <= right; i++) for (let j = bottom; j <= top; j++) tiles.push({ level, i, j });
    const offset = (tile) => Math.hypot((tile.i + 0.5) * side - view.x, (tile.j + 0.5) * side - view.y);
    return tiles.sort((a, b) => offset(a) - offset(b));
  }

  /** What is still to be made for a view, the most useful first: a coarse cover, then the level that suits. */
  missing(view) {
    const level = this.levelFor(view);
    return [level - 2, level].flatMap((each) =>
      this.tilesInView(view, each).filter((tile) => !this.slots.has(key(tile))));
  }

  /** Makes tiles until the time is up. Returns how many. */
  make(tiles, timeLeft) {
    let n = 0;
    while (n < tiles.length && timeLeft() > 1) this.makeOne(tiles[n++]);
    return n;
  }

  makeOne(tile) {
    const side = 2 ** -tile.level;
    const bytes = this.render(tile.i * side, tile.j * side, side);
    const slot = this.freeSlot();
    const [x, y] = this.corner(slot);
    this.context.putImageData(new ImageData(bytes, this.slotWidth, this.slotHeight), x, y);
    this.slots.set(key(tile), slot);
  }

  freeSlot() {
    if (this.slots.size < this.capacity) return this.slots.size;
    const [oldest, slot] = this.slots.entries().next().value;
    this.slots.delete(oldest);
    return slot;
  }

  corner(slot) {
    return [(slot % this.nColumns) * this.slotWidth, Math.floor(slot / this.nColumns) * this.slotHeight];
  }

  /** Draws what is there: where a tile is missing, its part of the nearest coarser one that has been made. */
  draw(context, view) {
    context.imageSmoothingEnabled = true;
    for (const tile of this.tilesInView(view, this.levelFor(view))) {
      const from = this.finestThere(tile);
      if (from) this.drawTile(context, view, tile, from);
    }
  }

  /** The tile itself if it has been made, else the nearest coarser one that holds it; null if there is none. */
  finestThere({ level, i, j }) {
    for (let up = 0; up <= 5; up++) {
      const tile = { level: level - up, i: Math.floor(i / 2 ** up), j: Math.floor(j / 2 ** up) };
      if (this.slots.has(key(tile))) return tile;
    }
    return null;
  }

  /** Draws at the place of `tile` what `from`, the same tile or a coarser one, has there. */
  drawTile(context, view, tile, from) {
    const slot = this.slots.get(key(from));
    this.slots.delete(key(from)); // and in again at the end: it has just been used
    this.slots.set(key(from), slot);
    const side = 2 ** -tile.level * view.scale;
    const left = view.width / 2 + tile.i * side - view.x * view.scale;
    const bottom = view.height / 2 - tile.j * side + view.y * view.scale;
    const share = 2 ** (from.level - tile.level); // of the sides of `from`
    const [x, y] = this.corner(slot);
    const right = (tile.i * share - from.i) * this.width, up = (from.j + 1 - (tile.j + 1) * share) * this.height;
    // Neighbours meet on whole pixels, so that no gap shows between them.
    const [x0, x1, y0, y1] = [left, left + side, bottom - side, bottom].map(Math.round);
    const source = [x + MARGIN + right, y + MARGIN + up, this.width * share, this.height * share];
    context.drawImage(this.atlas, ...source, x0, y0, x1 - x0, y1 - y0);
  }
}

/** The RGBA bytes of a picture with a margin that repeats its outermost pixels. */
function withMargin(bytes, width, height) {
  const wide = width + 2 * MARGIN;
  const out = new Uint8ClampedArray(4 * wide * (height + 2 * MARGIN));
  const [from, to] = [new Uint32Array(bytes.buffer), new Uint32Array(out.buffer)];
  const clamp = (value, limit) => Math.min(limit - 1, Math.max(0, value));
  for (let k = 0; k < to.length; k++) {
    const row = clamp(Math.floor(k / wide) - MARGIN, height), column = clamp((k % wide) - MARGIN, width);
    to[k] = from[row * width + column];
  }
  return out;
}

function key({ level, i, j }) {
  return `${level} ${i} ${j}`;
}

/** Calls work(timeLeft) while the browser is idle, again and again until it returns false. */
class IdleWork {
  constructor(work) {
    this.work = work;
    this.handle = 0;
  }

  start() {
    if (!this.handle) this.handle = whenIdle((timeLeft) => {
      this.handle = 0;
      if (this.work(timeLeft)) this.start();
    });
  }

  stop() {
    cancelIdle(this.handle);
    this.handle = 0;
  }
}

/** Idle is what the browser calls so; where it keeps silent (Safari, a page that stands still), SPARE_TIME now and then. */
function whenIdle(use) {
  const spare = () => {
    const end = performance.now() + SPARE_TIME;
    return () => end - performance.now();
  };
  if (!window.requestIdleCallback) return setTimeout(() => use(spare()), IDLE_DELAY);
  const start = (deadline) => use(deadline.didTimeout ? spare() : () => deadline.timeRemaining());
  return requestIdleCallback(start, { timeout: IDLE_DELAY });
}

function cancelIdle(handle) {
  if (window.cancelIdleCallback) cancelIdleCallback(handle);
  else clearTimeout(handle);
}
