// Which point is nearest, without a look at all of them: the points lie in the buckets of a grid.

class NearestIndex {
  /** points: x y x y ...; indices: those that count, all finite. */
  constructor(points, indices) {
    Object.assign(this, { points, n: indices.length });
    const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
    for (const i of indices)
      for (const axis of [0, 1]) {
        low[axis] = Math.min(low[axis], points[2 * i + axis]);
        high[axis] = Math.max(high[axis], points[2 * i + axis]);
      }
    this.low = low;
    const [width, height] = [high[0] - low[0], high[1] - low[1]];
    // About two points a bucket; a bucket is never flat.
    this.side = Math.max(Math.sqrt((2 * width * height) / (this.n || 1)), Math.max(width, height) / 500) || 1;
    this.nColumns = Math.floor(width / this.side) + 1 || 1;
    this.nRows = Math.floor(height / this.side) + 1 || 1;
    this.fill(indices);
  }

  /** Counting sort by bucket: members of bucket b are sorted[starts[b]] .. sorted[starts[b + 1] - 1]. */
  fill(indices) {
    const buckets = Int32Array.from(indices, (i) => this.bucket(this.points[2 * i], this.points[2 * i + 1]));
    this.starts = new Int32Array(this.nColumns * this.nRows + 1);
    for (const b of buckets) this.starts[b + 1]++;
    for (let b = 1; b < this.starts.length; b++) this.starts[b] += this.starts[b - 1];
    const next = this.starts.slice();
    this.sorted = new Int32Array(this.n);
    buckets.forEach((b, k) => (this.sorted[next[b]++] = indices[k]));
  }

  column(x) {
    return Math.min(this.nColumns - 1, Math.max(0, Math.floor((x - this.low[0]) / this.side)));
  }

  row(y) {
    return Math.min(this.nRows - 1, Math.max(0, Math.floor((y - this.low[1]) / this.side)));
  }

  bucket(x, y) {
    return this.row(y) * this.nColumns + this.column(x);
  }

  /**
   * The k nearest points that `accept` takes, nearest first: [{index, square}], square being the squared distance.
   * reach: where none is to be found within it, some or all may be left out, which saves a long search.
   */
  nearest(x, y, k = 1, accept = () => true, reach = Infinity) {
    const found = [];
    const [column, row] = [this.column(x), this.row(y)];
    const nRings = Math.max(column, this.nColumns - 1 - column, row, this.nRows - 1 - row);
    for (let ring = 0; ring <= nRings; ring++) {
      // What lies in rings further out is at least ring - 1 whole buckets away.
      const bound = Math.max(0, ring - 1) * this.side;
      if (bound > reach || (found.length === k && found[k - 1].square <= bound * bound)) break;
      const left = column - ring, right = column + ring;
      for (let r = Math.max(0, row - ring); r <= Math.min(this.nRows - 1, row + ring); r++) {
        const step = Math.abs(r - row) === ring ? 1 : right - left; // of the inner rows, the ring's two ends alone
        for (let c = left; c <= right; c += step)
          if (c >= 0 && c < this.nColumns) this.visit(r * this.nColumns + c, x, y, k, accept, found);
      }
    }
    return found;
  }

  visit(bucket, x, y, k, accept, found) {
    for (let s = this.starts[bucket]; s < this.starts[bucket + 1]; s++) {
      const index = this.sorted[s];
      const dx = this.points[2 * index] - x, dy = this.points[2 * index + 1] - y;
      const square = dx * dx + dy * dy;
      if (found.length === k && square >= found[k - 1].square) continue;
      if (!accept(index)) continue;
      if (found.length === k) found.pop();
      let place = found.length;
      while (place > 0 && found[place - 1].square > square) place--;
      found.splice(place, 0, { index, square });
    }
  }
}
