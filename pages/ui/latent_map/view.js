// The view: which part of the plane is on screen. Data -> CSS pixels by px = width / 2 + (x - this.x) * scale, y upwards.

const MAX_ZOOM = 200; // from where all points are in view
const MIN_ZOOM = 1 / 8;
const REACH = 4; // widths and heights of the extent that the middle of the view may lie from the extent's

class View {
  /** extent: {x, y, width, height} of nearly all points, in data units, about its middle. */
  constructor(extent) {
    this.extent = extent;
    this.isOwn = false; // whether it was chosen; else it follows the extent
    this.wanted = null; // {x, y, width} in data units, chosen before the size of the screen was known
    [this.x, this.y, this.scale] = [0, 0, 0];
    [this.width, this.height, this.ratio] = [0, 0, 1];
  }

  get isReady() {
    return this.scale > 0;
  }

  fitScale() {
    return 0.9 * Math.min(this.width / this.extent.width, this.height / this.extent.height);
  }

  /** A new size of the screen, in CSS pixels; ratio: device pixels to one of them. What was chosen stays in view. */
  resize(width, height, ratio) {
    const place = this.place();
    Object.assign(this, { width, height, ratio });
    if (place) this.show(place);
    else this.settle();
  }

  /** What is shown, {x, y, width} in data units; null if nobody chose it. */
  place() {
    if (this.wanted) return this.wanted;
    return this.isOwn && this.isReady ? { x: this.x, y: this.y, width: this.width / this.scale } : null;
  }

  /** Shows a place, {x, y, width} in data units. */
  show(place) {
    this.isOwn = true;
    this.wanted = this.width ? null : place;
    if (!this.width) return;
    [this.x, this.y, this.scale] = [place.x, place.y, this.width / place.width];
    this.settle();
  }

  /** Everything, now and when there are other points. */
  fit() {
    this.isOwn = false;
    this.wanted = null;
    this.settle();
  }

  settle() {
    if (!this.width) return;
    const { extent } = this, fit = this.fitScale();
    if (!this.isOwn) [this.x, this.y, this.scale] = [extent.x, extent.y, fit];
    const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
    this.scale = clamp(this.scale, fit * MIN_ZOOM, fit * MAX_ZOOM);
    const [across, up] = [REACH * extent.width, REACH * extent.height];
    this.x = clamp(this.x, extent.x - across, extent.x + across);
    this.y = clamp(this.y, extent.y - up, extent.y + up);
  }

  /** Whether a place can be the middle of the view. */
  reaches({ x, y }) {
    const { extent } = this;
    return Math.abs(x - extent.x) <= REACH * extent.width && Math.abs(y - extent.y) <= REACH * extent.height;
  }

  toScreen({ x, y }) {
    return [this.width / 2 + (x - this.x) * this.scale, this.height / 2 - (y - this.y) * this.scale];
  }

  toData(px, py) {
    return { x: this.x + (px - this.width / 2) / this.scale, y: this.y - (py - this.height / 2) / this.scale };
  }

  pan(dx, dy) {
    this.isOwn = true;
    this.x -= dx / this.scale;
    this.y += dy / this.scale;
    this.settle();
  }

  /** Zooms in by a factor about a place on screen. */
  zoomAt(px, py, factor) {
    const before = this.toData(px, py);
    this.isOwn = true;
    this.scale *= factor;
    this.settle();
    const after = this.toData(px, py);
    this.x += before.x - after.x;
    this.y += before.y - after.y;
    this.settle();
  }
}
