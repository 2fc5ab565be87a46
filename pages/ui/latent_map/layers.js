// What lies under the points: the decoded manifold, class regions, the density of the codes.

const N_VOTES = 15; // nearest codes that vote for a spot's class
const REGION_PIXELS = 8; // votes along a tile's side: few, for a tile must not take longer than a frame
const REGION_ALPHA = 160; // of 255, where all agree
const FAR = 6; // times the usual distance of the last voter: from there to twice as far, regions fade away
const DENSITY_CELLS = 256;
const BAND_ALPHA = [0, 28, 66, 112]; // of 255, by how many of the bands a spot lies in
// The share of a plane's standard normal distribution within 1, 2 and 3 standard deviations: 1 - exp(-r² / 2).
const PRIOR_MASSES = [1, 2, 3].map((r) => 1 - Math.exp(-r * r / 2));

/** Each tile is the picture that the model decodes at its middle. */
function manifoldLayer(plane, decoder) {
  const [, height, width] = decoder.shape;
  const render = (x, y, side) => {
    const { z } = plane.toZ({ x: x + side / 2, y: y + side / 2 });
    return withMargin(toBytes(decoder.decode(z), decoder.shape), width, height);
  };
  return new TileLayer({ width, height, cell: Math.max(44, Math.min(width, 64)), render });
}

/** Each pixel has the colour of the class that most of the nearest codes have, the paler the fewer they are. */
function regionLayer(plane, colours) {
  const voter = new Voter(plane);
  const size = REGION_PIXELS + 2 * MARGIN;
  const render = (x, y, side) => {
    const bytes = new Uint8ClampedArray(4 * size * size);
    const step = side / REGION_PIXELS;
    for (let k = 0; k < size * size; k++) {
      const column = (k % size) - MARGIN, row = Math.floor(k / size) - MARGIN;
      const { label, share, trust } = voter.vote({ x: x + (column + 0.5) * step, y: y + side - (row + 0.5) * step });
      bytes.set([...colours[label % colours.length], Math.round(REGION_ALPHA * share * share * trust)], 4 * k);
    }
    return bytes;
  };
  const layer = new TileLayer({ width: REGION_PIXELS, height: REGION_PIXELS, cell: 8 * REGION_PIXELS, render });
  return Object.assign(layer, { voter });
}

/**
 * The classes of the codes nearest to a spot: in latent space, by the z that the spot decodes; on t-SNE and UMAP, whose
 * spots have no z, on the map itself.
 */
class Voter {
  constructor(plane) {
    this.plane = plane;
    this.inPlane = !plane.invertible || plane.header.n_dims === 2;
    this.k = Math.min(N_VOTES, plane.order.length);
    if (!this.inPlane) this.unfold();
    this.reach = Infinity;
    const some = plane.order.subarray(0, 100);
    const reaches = Float64Array.from(some, (i) => this.lastReach(this.nearest(plane.spotOf(i)))).sort();
    this.usual = reaches[reaches.length >> 1] || 1; // how far the last voter is from the place of a code, as a median
    this.reach = 2 * FAR * this.usual;
  }

  /**
   * A code's squared distance from a z of the plane is that from its own place in the plane, plus that of the code from
   * there, which is the same for every z: by Pythagoras. The codes that lie nearest to the plane come first.
   */
  unfold() {
    const { codes, order, header: { n_dims: D, origin } } = this.plane;
    const rows = Array.from(order, (index) => {
      const step = Array.from(codes.subarray(index * D, (index + 1) * D), (value, d) => value - origin[d]);
      const { x, y } = this.plane.stepOf(step);
      const above = step.reduce((sum, value) => sum + value * value, 0) - x * x - y * y;
      return { index, x, y, above: Math.max(0, above) };
    });
    rows.sort((a, b) => a.above - b.above);
    this.indices = Int32Array.from(rows, (row) => row.index);
    [this.xs, this.ys, this.above] = ["x", "y", "above"].map((name) => Float32Array.from(rows, (row) => row[name]));
  }

  /** The k codes nearest to a spot, nearest first, {index, square}; fewer where they are out of reach. */
  nearest({ x, y }) {
    if (this.inPlane) return this.plane.index.nearest(x, y, this.k, () => true, this.reach);
    if (!this.plane.header.upward) y = 0;
    const found = [];
    let worst = this.reach ** 2;
    for (let n = 0; n < this.indices.length && this.above[n] < worst; n++) {
      const dx = this.xs[n] - x, dy = this.ys[n] - y;
      const square = dx * dx + dy * dy + this.above[n];
      if (!(square < worst)) continue;
      if (found.length === this.k) found.pop();
      let place = found.length;
      while (place > 0 && found[place - 1].square > square) place--;
      found.splice(place, 0, { index: this.indices[n], square });
      if (found.length === this.k) worst = found[this.k - 1].square;
    }
    return found;
  }

  lastReach(found) {
    return found.length < this.k ? Infinity : Math.sqrt(found[this.k - 1].square);
  }

  /** -> {label, votes, share (of the votes, 0 to 1), trust (1 among the codes, 0 far from all of them)}. */
  vote(spot) {
    const found = this.nearest(spot);
    const counts = new Map();
    for (const { index } of found) {
      const label = this.plane.labels[index];
      counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    const [label, votes] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best), [0, 0]);
    const trust = Math.min(1, Math.max(0, 2 - this.lastReach(found) / (FAR * this.usual)));
    return { label, votes, share: votes / this.k, trust };
  }
}

/**
 * Where the codes lie densest, as three bands that hold as much of them as the circles do of the prior: 39, 86, 99 %.
 * Were the codes of all images together distributed as the prior, each band would end at its circle.
 * A Gaussian kernel by Scott's rule on a grid; the bands are highest-density regions (Hyndman 1996).
 */
class DensityLayer {
  constructor(plane) {
    const axes = [0, 1].map((axis) => this.span(plane, axis));
    this.left = axes[0].low;
    this.bottom = axes[1].low;
    [this.width, this.height] = axes.map(({ low, high }) => high - low);
    this.density = this.estimate(plane, axes);
    this.limits = this.findLimits(plane);
    this.canvas = Object.assign(document.createElement("canvas"), { width: DENSITY_CELLS, height: DENSITY_CELLS });
  }

  /** The stretch of an axis that nearly all points are in, three kernels wider at each end. */
  span(plane, axis) {
    const values = Float32Array.from(plane.order, (i) => plane.points[2 * i + axis]).sort();
    const n = values.length;
    const low = values[Math.floor(0.001 * (n - 1))] ?? -1, high = values[Math.ceil(0.999 * (n - 1))] ?? 1;
    const mean = values.reduce((sum, value) => sum + value, 0) / n;
    const std = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n) || 1e-3;
    const kernel = std * n ** (-1 / 6); // Scott 1992, in two dimensions
    return { low: low - 3 * kernel, high: high + 3 * kernel, kernel };
  }

  cellOf(x, y) {
    const column = Math.floor(((x - this.left) / this.width) * DENSITY_CELLS);
    const row = Math.floor(((y - this.bottom) / this.height) * DENSITY_CELLS);
    const inside = column >= 0 && row >= 0 && column < DENSITY_CELLS && row < DENSITY_CELLS;
    return inside ? row * DENSITY_CELLS + column : -1;
  }

  estimate(plane, axes) {
    let counts = new Float32Array(DENSITY_CELLS ** 2);
    for (const i of plane.order) {
      const cell = this.cellOf(plane.points[2 * i], plane.points[2 * i + 1]);
      if (cell >= 0) counts[cell]++;
    }
    const radii = axes.map(({ low, high, kernel }) => (kernel / (high - low)) * DENSITY_CELLS);
    counts = blur(counts, 1, DENSITY_CELLS, radii[0]);
    return blur(counts, DENSITY_CELLS, 1, radii[1]);
  }

  /** The densities above which the shares PRIOR_MASSES of the points lie. */
  findLimits(plane) {
    const densityAt = (i) => this.density[this.cellOf(plane.points[2 * i], plane.points[2 * i + 1])] ?? 0;
    const at = Float32Array.from(plane.order, densityAt).sort();
    return PRIOR_MASSES.map((mass) => at[Math.floor((1 - mass) * (at.length - 1))] ?? Infinity);
  }

  /** Bands in a colour, [r, g, b]; made anew when the colour changes. */
  paintBands(colour) {
    const image = new ImageData(DENSITY_CELLS, DENSITY_CELLS);
    for (let row = 0; row < DENSITY_CELLS; row++)
      for (let column = 0; column < DENSITY_CELLS; column++) {
        const value = this.density[row * DENSITY_CELLS + column];
        const n_bands = this.limits.filter((limit) => value > 0 && value >= limit).length;
        image.data.set([...colour, BAND_ALPHA[n_bands]], 4 * ((DENSITY_CELLS - 1 - row) * DENSITY_CELLS + column));
      }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }

  draw(context, view, colour) {
    if (String(colour) !== this.painted) this.paintBands(colour);
    this.painted = String(colour);
    context.imageSmoothingEnabled = true;
    const [left, top] = view.toScreen({ x: this.left, y: this.bottom + this.height });
    context.drawImage(this.canvas, left, top, this.width * view.scale, this.height * view.scale);
  }
}

/** A Gaussian blur along one direction of a square grid: `step` from cell to cell, `stride` from line to line. */
function blur(values, step, stride, radius) {
  const reach = Math.max(1, Math.ceil(3 * radius));
  const weightAt = (step) => Math.exp(-0.5 * (step / Math.max(radius, 0.3)) ** 2);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, k) => weightAt(k - reach));
  const total = kernel.reduce((sum, weight) => sum + weight, 0);
  const out = new Float32Array(values.length);
  for (let line = 0; line < DENSITY_CELLS; line++)
    for (let cell = 0; cell < DENSITY_CELLS; cell++) {
      const value = values[line * stride + cell * step];
      if (value === 0) continue;
      const from = Math.max(0, cell - reach), to = Math.min(DENSITY_CELLS - 1, cell + reach);
      for (let other = from; other <= to; other++)
        out[line * stride + other * step] += (value * kernel[other - cell + reach]) / total;
    }
  return out;
}
