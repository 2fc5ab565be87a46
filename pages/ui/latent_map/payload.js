// What the server sends, unpacked: a header, then blocks of numbers. map_payload in __init__.py says what each holds.

const BLOCK_KINDS = { f4: Float32Array, f2: Uint16Array, u1: Uint8Array };

/** bytes -> {header, and each block by its name}; float16 stays packed, 2 bytes a number, until it is needed. */
function unpack(bytes) {
  const copy = bytes.slice(); // what arrives is not aligned to 4 bytes
  const headLength = new DataView(copy.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(copy.subarray(4, 4 + headLength)));
  const data = { header };
  let start = 4 + headLength;
  for (const [name, kind, length] of header.blocks) {
    data[name] = new BLOCK_KINDS[kind](copy.buffer, start, length);
    start += 4 * Math.ceil(data[name].byteLength / 4);
  }
  return data;
}

const HALF_UNIT = Float64Array.from({ length: 31 }, (_, e) => 2 ** (Math.max(e, 1) - 25)); // by exponent: one step
/** Every float16 as a number: a decoder's half a million are looked up in a millisecond or two. */
const HALF_VALUES = Float32Array.from({ length: 65536 }, (_, h) => {
  const e = (h >> 10) & 31, fraction = h & 1023;
  const size = e === 31 ? (fraction ? NaN : Infinity) : (e ? 1024 + fraction : fraction) * HALF_UNIT[e];
  return h >> 15 ? -size : size;
});

/** float16 bits or float32 numbers -> Float32Array. */
function toFloats(numbers) {
  if (!(numbers instanceof Uint16Array)) return numbers;
  const floats = new Float32Array(numbers.length);
  for (let i = 0; i < numbers.length; i++) floats[i] = HALF_VALUES[numbers[i]];
  return floats;
}

/** A server's pictures are PNG addresses; those made here are painted on a small canvas first. */
class LocalPictures {
  constructor(decoder) {
    this.decoder = decoder;
    this.sheet = document.createElement("canvas");
  }

  /** zs: arrays of D numbers. Calls use with the address of a picture for each, at once. */
  draw(_purpose, zs, use) {
    use(zs.map((z) => {
      paint(this.sheet, this.decoder.decode(z), this.decoder.shape);
      return this.sheet.toDataURL();
    }));
  }
}

const ANSWER_TIME = 5000; // milliseconds, after which an answer counts as lost

/** Pictures that the server decodes: one question under way at a time, and of each purpose only the latest waits. */
class RemotePictures {
  constructor(send) {
    this.send = send;
    this.waiting = new Map();
    this.token = 0;
    this.asked = null;
    this.timer = 0;
  }

  draw(purpose, zs, use) {
    this.waiting.set(purpose, { zs, use });
    this.ask();
  }

  ask() {
    if (this.asked || !this.waiting.size) return;
    this.asked = { token: ++this.token, jobs: new Map(this.waiting) };
    this.waiting.clear();
    this.timer = setTimeout(() => this.askAgain(), ANSWER_TIME);
    const jobs = [...this.asked.jobs.values()];
    this.send({ token: this.token, z: jobs.flatMap((job) => job.zs.map((z) => Array.from(z))) });
  }

  /** The answer was lost on the way: the same once more, but for what has been overtaken meanwhile. */
  askAgain() {
    this.waiting = new Map([...this.asked.jobs, ...this.waiting]);
    this.asked = null;
    this.ask();
  }

  stop() {
    clearTimeout(this.timer);
  }

  receive({ token, pictures }) {
    if (token !== this.asked?.token) return;
    this.stop();
    let start = 0;
    for (const { zs, use } of this.asked.jobs.values()) use(pictures.slice(start, (start += zs.length)));
    this.asked = null;
    this.ask();
  }
}

/** Pixels in [0, 1], (C H W) with C = 1 or 3 -> RGBA bytes, row by row. */
function toBytes(pixels, [channels, height, width]) {
  const n = width * height;
  const bytes = new Uint8ClampedArray(4 * n);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) bytes[4 * i + c] = Math.round(255 * pixels[(channels === 3 ? c * n : 0) + i]);
    bytes[4 * i + 3] = 255;
  }
  return bytes;
}

/** Pixels in [0, 1], (C H W), onto a canvas of their size. */
function paint(canvas, pixels, shape) {
  const [, height, width] = shape;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(toBytes(pixels, shape), width, height), 0, 0);
}
