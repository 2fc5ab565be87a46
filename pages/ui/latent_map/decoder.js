// A decoder of vae/networks.py in the browser: z -> pixels in [0, 1], plain loops over float32 arrays.
// decoder.py beside this packs the layers; tests compare every kind of layer with torch.

/** The error function to 1.2e-7. Source: Numerical Recipes' erfc, a Chebyshev fit (Press et al., section 6.2). */
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const series = [
    1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
  ];
  let sum = 0;
  for (let k = series.length - 1; k >= 0; k--) sum = sum * t + series[k];
  const rest = t * Math.exp(-x * x - 1.26551223 + t * sum);
  return x >= 0 ? 1 - rest : rest - 1;
}

const LARGEST_LOGIT = Math.log(0.9999 / 0.0001); // of a continuous Bernoulli, as in vae/objectives.py
const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  relu: (x) => (x > 0 ? x : 0),
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  continuous_bernoulli: (logit) => { // its mean; near 0 a Taylor series, as in vae/objectives.py
    const x = Math.max(-LARGEST_LOGIT, Math.min(LARGEST_LOGIT, logit));
    return Math.abs(x) < 0.1 ? 0.5 + x / 12 - x ** 3 / 720 : 0.5 / Math.tanh(x / 2) + 0.5 - 1 / x;
  },
};

/** Each part of z -> the nearest vector of the codebook. vectors: (n_symbols, symbol_dim). */
function nearestSymbols(z, { vectors, n_symbols, symbol_dim }) {
  const out = new Float32Array(z.length);
  for (let start = 0; start < z.length; start += symbol_dim) {
    let best = 0, least = Infinity;
    for (let symbol = 0; symbol < n_symbols; symbol++) {
      let square = 0;
      for (let d = 0; d < symbol_dim; d++) square += (z[start + d] - vectors[symbol * symbol_dim + d]) ** 2;
      if (square < least) [best, least] = [symbol, square];
    }
    out.set(vectors.subarray(best * symbol_dim, (best + 1) * symbol_dim), start);
  }
  return out;
}

/** x (n_in) -> (n_out). weight: (n_in, n_out), the transpose of torch's, so that the inner loop runs along memory. */
function linear(x, { weight, bias, n_out }) {
  const out = Float32Array.from(bias);
  for (let i = 0; i < x.length; i++) {
    const value = x[i];
    if (value === 0) continue; // after a ReLU, half of them
    for (let j = 0, k = i * n_out; j < n_out; j++, k++) out[j] += value * weight[k];
  }
  return out;
}

/**
 * Doubles the sides: kernel 4 × 4, stride 2, padding 1.
 * x (n_in, H, W) -> (n_out, 2 H, 2 W). weight: (n_in, n_out, 4, 4).
 */
function convTranspose(x, { weight, bias, n_in, n_out, height, width }) {
  const [outHeight, outWidth] = [2 * height, 2 * width];
  const out = new Float32Array(n_out * outHeight * outWidth);
  for (let o = 0; o < n_out; o++) out.fill(bias[o], o * outHeight * outWidth, (o + 1) * outHeight * outWidth);
  for (let c = 0; c < n_in; c++)
    for (let o = 0; o < n_out; o++)
      for (let ky = 0; ky < 4; ky++)
        for (let kx = 0; kx < 4; kx++) {
          const w = weight[((c * n_out + o) * 4 + ky) * 4 + kx];
          // Pixel (y, x) reaches row 2 y - 1 + ky and column 2 x - 1 + kx, where those are on the picture.
          const yEnd = Math.min(height, Math.floor((outHeight - ky) / 2) + 1);
          const xEnd = Math.min(width, Math.floor((outWidth - kx) / 2) + 1);
          for (let y = ky === 0 ? 1 : 0; y < yEnd; y++) {
            const from = (c * height + y) * width, to = (o * outHeight + 2 * y - 1 + ky) * outWidth - 1 + kx;
            for (let xx = kx === 0 ? 1 : 0; xx < xEnd; xx++) out[to + 2 * xx] += w * x[from + xx];
          }
        }
  return out;
}

/** The decoder that a header describes; weights: all of them, layer after layer, as decoder.py packed them. */
function makeDecoder({ layers, image_shape }, weights) {
  let start = 0;
  const take = (length) => weights.subarray(start, (start += length));
  const filled = layers.map((layer) => {
    if (layer.kind === "codebook") return { ...layer, vectors: take(layer.n_symbols * layer.symbol_dim) };
    if (!layer.n_in) return layer;
    const n_taps = layer.kind === "linear" ? 1 : 16;
    const weight = take(layer.n_in * layer.n_out * n_taps);
    return { ...layer, weight, bias: take(layer.n_out) };
  });
  return new Decoder(filled, image_shape);
}

class Decoder {
  /** layers: as decoder.py describes them, each with its weight and bias as Float32Array; shape: [C, H, W]. */
  constructor(layers, shape) {
    Object.assign(this, { layers, shape });
  }

  /** z: D numbers -> pixels (C H W) in [0, 1]. Where each pixel has a scale too, those numbers are left out. */
  decode(z) {
    let x = Float32Array.from(z);
    for (const layer of this.layers) {
      if (layer.kind === "linear") x = linear(x, layer);
      else if (layer.kind === "conv_transpose") x = convTranspose(x, layer);
      else if (layer.kind === "codebook") x = nearestSymbols(x, layer);
      else x = x.map(ACTIVATIONS[layer.kind]);
    }
    const [channels, height, width] = this.shape;
    return x.subarray(0, channels * height * width);
  }
}
