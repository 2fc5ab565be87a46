// An image's posterior q(z|x) = N(mu, diag(sigma²)) as the map's plane shows it, and z = mu + sigma · eps.

/** Standard normal numbers that are the same for the same seed: mulberry32, Box & Muller 1958. */
function normals(n, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float64Array.from({ length: n }, normal);
}

class Posterior {
  /** The posterior of the encoded image `index` in a plane that has axes. */
  constructor(plane, index) {
    Object.assign(this, { plane, index });
    this.centre = plane.spotOf(index);
    this.mu = Array.from(plane.muOf(index));
    this.sigma = Array.from(plane.logvarOf(index), (logvar) => Math.exp(0.5 * logvar));
    this.covariance = this.findCovariance();
    this.eps = normals(this.mu.length, index + 1);
  }

  /** Of the plane's coordinates, [xx, xy, yy]: the axes times diag(sigma²) times the axes. */
  findCovariance() {
    const { axes } = this.plane.header;
    const sum = (a, b) => this.sigma.reduce((total, sigma, d) => total + a[d] * b[d] * sigma * sigma, 0);
    return [sum(axes[0], axes[0]), sum(axes[0], axes[1]), sum(axes[1], axes[1])];
  }

  /** The half axes of the 1 σ ellipse in data units, and the angle of the longer one, anticlockwise. */
  ellipse() {
    const [xx, xy, yy] = this.covariance;
    const middle = (xx + yy) / 2, spread = Math.hypot((xx - yy) / 2, xy);
    const root = (value) => Math.sqrt(Math.max(0, value));
    return { long: root(middle + spread), short: root(middle - spread), angle: 0.5 * Math.atan2(2 * xy, xx - yy) };
  }

  z(eps = this.eps) {
    return this.mu.map((mu, d) => mu + this.sigma[d] * eps[d]);
  }

  /** Where a sample lies on the map. */
  spot(eps = this.eps) {
    const step = this.plane.stepOf(this.sigma.map((sigma, d) => sigma * eps[d]));
    return { x: this.centre.x + step.x, y: this.centre.y + step.y };
  }

  samples(n) {
    const D = this.mu.length;
    const eps = normals(n * D, this.index + 7919);
    return Array.from({ length: n }, (_, k) => this.spot(eps.subarray(k * D, (k + 1) * D)));
  }

  /**
   * Changes eps so that the sample comes to lie at a spot: by the smallest change that does it, so what eps is in
   * directions that the plane does not show stays: eps += sigma Aᵀ (A sigma² Aᵀ)⁻¹ step, with the plane's axes A.
   */
  moveTo(target) {
    const [xx, xy, yy] = this.covariance;
    const now = this.spot();
    const [dx, dy] = [target.x - now.x, target.y - now.y];
    const determinant = xx * yy - xy * xy;
    const isFlat = determinant <= 1e-9 * (xx + yy) ** 2; // one latent dimension: up and down mean nothing
    const a = isFlat ? dx / xx : (yy * dx - xy * dy) / determinant;
    const b = isFlat ? 0 : (xx * dy - xy * dx) / determinant;
    const { axes } = this.plane.header;
    this.eps = this.eps.map((eps, d) => eps + this.sigma[d] * (axes[0][d] * a + axes[1][d] * b));
  }

  /** A new draw of eps. */
  redraw() {
    this.n_draws = (this.n_draws ?? 0) + 1;
    this.eps = normals(this.mu.length, this.index + 1 + 104729 * this.n_draws);
  }
}
