// Painters of points, one like the other: WebGL2 where the browser has it, else plain pixels.
//   setPlaces(x y x y ...), setColours(r g b a ..., 0 to 255; a = 0 hides a point), both in the order of drawing
//   draw(view, radius, opacity): radius in CSS pixels

const VERTEX_SHADER = `#version 300 es
  uniform vec2 centre, zoom; // of the view: data -> clip space
  uniform float size; // device pixels
  in vec2 place;
  in vec4 colour;
  out vec4 ink;
  void main() {
    gl_Position = colour.a > 0.0 ? vec4((place - centre) * zoom, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
    gl_PointSize = size;
    ink = colour;
  }`;
const FRAGMENT_SHADER = `#version 300 es
  precision highp float; // as in the vertex shader, with which it shares a uniform
  uniform float size, opacity;
  in vec4 ink;
  out vec4 pixel;
  void main() {
    float inside = (0.5 - length(gl_PointCoord - 0.5)) * size; // device pixels from the disc's edge
    float alpha = clamp(inside, 0.0, 1.0) * opacity;
    if (alpha == 0.0) discard;
    pixel = vec4(ink.rgb * alpha, alpha);
  }`;

/** A painter on a canvas of its own. onLost is called when the graphics card lets go of it, onBack when it is back. */
function makePainter(onLost, onBack) {
  const canvas = makeCanvas();
  const gl = canvas.getContext("webgl2", { antialias: false });
  if (gl && hasCard(gl)) return new CardPainter(canvas, gl, onLost, onBack);
  if (gl) giveBack(gl);
  return new PixelPainter();
}

/** Whether there is a graphics card behind it: browsers without one draw by software that is slow at many points. */
function hasCard(gl) {
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  return !names || !/swiftshader|llvmpipe|software/i.test(gl.getParameter(names.UNMASKED_RENDERER_WEBGL));
}

/** Browsers allow few of these at a time: it goes back at once, not when the garbage is collected. */
function giveBack(gl) {
  gl.getExtension("WEBGL_lose_context")?.loseContext();
}

function makeCanvas() {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function fitCanvas(canvas, width, height, ratio) {
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
}

class CardPainter {
  constructor(canvas, gl, onLost, onBack) {
    Object.assign(this, { canvas, gl });
    this.prepare();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // else it never comes back
      if (!this.isGone) onLost();
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.prepare();
      onBack();
    });
  }

  prepare() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, FRAGMENT_SHADER]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.uniforms = Object.fromEntries(
      ["centre", "zoom", "size", "opacity"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    this.places = this.attribute(program, "place", 2, gl.FLOAT, false);
    this.colours = this.attribute(program, "colour", 4, gl.UNSIGNED_BYTE, true);
  }

  attribute(program, name, size, type, normalized) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    const location = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, size, type, normalized, 0, 0);
    return buffer;
  }

  upload(buffer, numbers) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.DYNAMIC_DRAW);
  }

  setPlaces(places) {
    this.n = places.length / 2;
    this.upload(this.places, places);
  }

  setColours(colours) {
    this.upload(this.colours, colours);
  }

  draw(view, radius, opacity) {
    const { gl, uniforms } = this, { width, height, ratio } = view;
    fitCanvas(this.canvas, width, height, ratio);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(uniforms.centre, view.x, view.y);
    gl.uniform2f(uniforms.zoom, (2 * view.scale) / width, (2 * view.scale) / height);
    gl.uniform1f(uniforms.size, 2 * radius * ratio + 1);
    gl.uniform1f(uniforms.opacity, opacity);
    gl.drawArrays(gl.POINTS, 0, this.n);
  }

  destroy() {
    this.isGone = true;
    giveBack(this.gl);
  }
}

/** For browsers without WebGL2, and for those that only pretend to a graphics card: there this is the faster one. */
class PixelPainter {
  constructor() {
    this.canvas = makeCanvas();
    this.context = this.canvas.getContext("2d");
  }

  setPlaces(places) {
    this.places = places;
  }

  setColours(colours) {
    this.colours = colours;
  }

  draw(view, radius, opacity) {
    const { ratio } = view;
    fitCanvas(this.canvas, view.width, view.height, ratio);
    const { width, height } = this.canvas;
    if (this.image?.width !== width || this.image.height !== height) this.image = new ImageData(width, height);
    this.image.data.fill(0);
    const stamp = discStamp(radius * ratio, opacity, width);
    const scale = view.scale * ratio, { places, colours } = this;
    const left = width / 2 - view.x * scale, top = height / 2 + view.y * scale;
    for (let i = 0, c = 0; i < places.length; i += 2, c += 4) {
      if (!colours[c + 3]) continue;
      const px = Math.round(left + places[i] * scale), py = Math.round(top - places[i + 1] * scale);
      // A disc over the canvas's edge is left out: it is half hidden at most, by two pixels.
      if (px >= stamp.reach && py >= stamp.reach && px < width - stamp.reach && py < height - stamp.reach)
        stampDisc(this.image.data, stamp, 4 * (py * width + px), colours, c);
    }
    this.context.putImageData(this.image, 0, 0);
  }

  destroy() {}
}

/** The pixels of a disc about its middle: {reach, steps: to each pixel's place in RGBA bytes, alphas: 0 to 256}. */
function discStamp(radius, opacity, width) {
  const reach = Math.ceil(radius), steps = [], alphas = [];
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const alpha = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy))) * opacity);
      if (alpha > 0) {
        steps.push(4 * (dy * width + dx));
        alphas.push(alpha);
      }
    }
  return { reach, steps: Int32Array.from(steps), alphas: Int32Array.from(alphas) };
}

/**
 * Mixes the colour at colours[c] into the RGBA bytes about `middle`. On an empty pixel the colour is taken as it is;
 * its alpha grows as in "over" (Porter & Duff 1984).
 */
function stampDisc(data, { steps, alphas }, middle, colours, c) {
  const r = colours[c], g = colours[c + 1], b = colours[c + 2];
  for (let s = 0; s < steps.length; s++) {
    const k = middle + steps[s], alpha = data[k + 3] ? alphas[s] : 256;
    data[k] += ((r - data[k]) * alpha) >> 8;
    data[k + 1] += ((g - data[k + 1]) * alpha) >> 8;
    data[k + 2] += ((b - data[k + 2]) * alpha) >> 8;
    data[k + 3] += ((255 - data[k + 3]) * alphas[s]) >> 8;
  }
}
