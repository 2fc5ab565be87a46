// The plane that the map shows: from a spot to its z and back, and which encoded image is near.

class Plane {
  /** data: what `unpack` gave. */
  constructor(data) {
    Object.assign(this, data);
    const { n } = data.header;
    const finite = [];
    for (let i = 0; i < n; i++) if (Number.isFinite(this.points[2 * i] + this.points[2 * i + 1])) finite.push(i);
    this.order = shuffle(Uint32Array.from(finite));
    this.hidden = new Set(); // classes that the legend hides
    this.index = new NearestIndex(this.points, this.order);
  }

  /** Whether each spot has a z of its own; t-SNE and UMAP have none. */
  get invertible() {
    return this.header.axes !== null;
  }

  isShown(i) {
    return !this.hidden.has(this.labels[i]);
  }

  /** The nearest shown point to a spot, {index, square}, or undefined. */
  nearest({ x, y }) {
    return this.index.nearest(x, y, 1, (i) => this.isShown(i))[0];
  }

  spotOf(index) {
    return { x: this.points[2 * index], y: this.points[2 * index + 1] };
  }

  /** mu or logvar of an image, D numbers; those of a model of one or two dimensions are the points themselves. */
  muOf(index) {
    const D = this.header.n_dims;
    if (!this.mu) return D <= 2 ? this.points.slice(2 * index, 2 * index + D) : null;
    return toFloats(this.mu.slice(index * D, (index + 1) * D));
  }

  logvarOf(index) {
    const D = this.header.n_dims;
    return toFloats(this.logvar.slice(index * D, (index + 1) * D));
  }

  /** A spot -> {z, index}: the z that it stands for; on a plane without a way back, the nearest image's, and which. */
  toZ({ x, y }) {
    const { origin, axes } = this.header;
    if (this.invertible) return { z: origin.map((value, d) => value + x * axes[0][d] + y * axes[1][d]), index: null };
    const index = this.nearest({ x, y })?.index ?? null;
    return { z: index === null ? null : this.muOf(index), index };
  }

  /** A step in latent space, D numbers, as a step in the plane: the axes are orthonormal. */
  stepOf(dz) {
    const along = (axis) => axis.reduce((sum, value, d) => sum + value * dz[d], 0);
    const [across, up] = this.header.axes.map(along);
    return { x: across, y: up };
  }

  /** All codes as one Float32Array (n D), made when first asked for. */
  get codes() {
    if (!this.allCodes) {
      if (this.mu) this.allCodes = toFloats(this.mu);
      else {
        const D = this.header.n_dims;
        this.allCodes = new Float32Array(this.header.n * D);
        for (let i = 0; i < this.header.n; i++)
          for (let d = 0; d < D; d++) this.allCodes[i * D + d] = this.points[2 * i + d];
      }
    }
    return this.allCodes;
  }

  /** The numbers of the header's values[field], one a point: a block of their own, or a column of mu. */
  valuesOf(field) {
    const { values, n, n_dims } = this.header;
    const { dim } = values[field];
    if (dim === undefined) return toFloats(this[`value ${field}`]);
    return Float32Array.from({ length: n }, (_, i) => this.codes[i * n_dims + dim]);
  }

  /** Where nearly all points lie: a few far ones must not shrink the crowd. */
  extent() {
    const range = (axis) => {
      const values = Float32Array.from(this.order, (i) => this.points[2 * i + axis]).sort();
      if (!values.length) return [-3, 3];
      const last = values.length - 1;
      const low = values[Math.floor(0.003 * last)], high = values[Math.ceil(0.997 * last)];
      return high > low ? [low, high] : [low - 1, high + 1];
    };
    const [left, right] = range(0), [bottom, top] = range(1);
    return { x: (left + right) / 2, y: (bottom + top) / 2, width: right - left, height: top - bottom };
  }
}

/** In place, in the same mixed order each time, so that no class covers another for being drawn last. */
function shuffle(order) {
  let state = 12345;
  for (let i = order.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function distance(a, b) {
  return Math.sqrt(a.reduce((sum, value, d) => sum + (value - b[d]) ** 2, 0));
}
