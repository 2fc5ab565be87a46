// The latent map of a model in training: the same images, moving, on axes that stay where they are.

const FIRST_EXTENT = { left: -3.2, right: 3.2, bottom: -3.2, top: 3.2 }; // the prior's; it only grows
const EXTENT_MARGIN = 0.15;
const MOVE_FRAME = 25; // milliseconds, then comes the next frame of the screen
const NO_WEIGHTS = "decoding works at the last epoch, whose weights are kept";
const TOO_LARGE = "this decoder is too large for the browser; the Latent map page decodes with it";

/** The extent that holds these points and all before: it grows where nearly all points no longer fit. */
function grownExtent(extent, { x, y, width, height }) {
  const grow = (low, high, from, to) => {
    const margin = EXTENT_MARGIN * (to - from);
    return [from < low ? from - margin : low, to > high ? to + margin : high];
  };
  const [left, right] = grow(extent.left, extent.right, x - width / 2, x + width / 2);
  const [bottom, top] = grow(extent.bottom, extent.top, y - height / 2, y + height / 2);
  return { left, right, bottom, top };
}

function mix(a, b, share) {
  return Object.fromEntries(Object.keys(a).map((key) => [key, a[key] + share * (b[key] - a[key])]));
}

function toEdges({ x, y, width, height }) {
  return { left: x - width / 2, right: x + width / 2, bottom: y - height / 2, top: y + height / 2 };
}

function toViewExtent({ left, right, bottom, top }) {
  return { x: (left + right) / 2, y: (bottom + top) / 2, width: right - left, height: top - bottom };
}

class FormingMap extends LatentMap {
  /** moment: {header, labels, points, decoder or null}, extent as `grownExtent` gives it; time: for the way, in ms. */
  advance(moment, extent, time) {
    const isFirst = !this.plane;
    const from = isFirst ? null : this.places();
    const hidden = this.plane?.hidden;
    this.pendingExtent = extent;
    if (isFirst) this.load(moment);
    else {
      this.header = moment.header;
      this.plane = new Plane(moment);
      this.plane.hidden = hidden;
    }
    if (this.decoder !== moment.decoder || isFirst) {
      this.decoder = moment.decoder;
      this.pictures = new LocalPictures(this.decoder);
    }
    this.move = from && time ? { from, start: performance.now(), time } : null;
    this.aimExtent(extent, time);
    this.placePoints();
    this.redraw();
    this.showPins();
    if (this.shown) this.decodeShown(); // what lies under a resting pointer has changed
  }

  /** Where the points are on screen just now, by image. */
  places() {
    const { points } = this.plane;
    if (!this.move) return points;
    const share = Math.min(1, (performance.now() - this.move.start) / this.move.time), { from } = this.move;
    return points.map((value, i) => from[i] + share * (value - from[i]));
  }

  placePoints() {
    const places = this.places(), { order } = this.plane;
    const inOrder = new Float32Array(2 * order.length);
    order.forEach((i, k) => {
      inOrder[2 * k] = places[2 * i];
      inOrder[2 * k + 1] = places[2 * i + 1];
    });
    this.painter.setPlaces(inOrder);
    if (this.move && performance.now() - this.move.start >= this.move.time) this.move = null;
  }

  aimExtent(extent, time) {
    const moves = time && this.extentNow;
    this.extentMove = moves ? { from: this.extentNow, to: extent, start: performance.now(), time } : null;
    if (!this.extentMove) this.setExtent(extent);
  }

  setExtent(extent) {
    this.extentNow = extent;
    this.view.extent = toViewExtent(extent);
  }

  draw() {
    if (this.extentMove) {
      const { from, to, start, time } = this.extentMove;
      const share = Math.min(1, (performance.now() - start) / time);
      this.setExtent(mix(from, to, share));
      if (share === 1) this.extentMove = null;
      else this.goOnMoving();
    } else if (this.view && this.pendingExtent) this.setExtent(this.extentNow ?? this.pendingExtent);
    super.draw();
  }

  /** Thirty times a second is smooth for points that drift; the training may need this processor. */
  goOnMoving() {
    this.moveTimer ||= setTimeout(() => {
      this.moveTimer = null;
      this.redraw();
    }, MOVE_FRAME);
  }

  destroy() {
    clearTimeout(this.moveTimer);
    super.destroy();
  }

  decodeShown() {
    if (this.decoder) return super.decodeShown();
    this.decoded = this.shown;
    const { z } = this.zOf(this.shown);
    this.panel.showMain(BLANK_PICTURE, this.header.layers ? NO_WEIGHTS : TOO_LARGE, z);
  }

  showPins() {
    if (this.decoder || !this.pins.length) super.showPins();
    else this.placeMarks();
  }
}

/** A clear pixel. */
const BLANK_PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
