// Painters of points, one like the other: WebGL2 where the browser has it, else plain pixels.
//   setPlaces(x y x y ...), setColours(r g b a ..., 0 to 255; a = 0 hides a point), in the order in which they are drawn
//   draw({x, y, scale}, width, height, ratio, radius, opacity): CSS pixels; ratio: device pixels to a CSS pixel

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
  return gl ? new CardPainter(canvas, gl, onLost, onBack) : new PixelPainter();
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

  draw(view, width, height, ratio, radius, opacity) {
    const { gl, uniforms } = this;
    fitCanvas(this.canvas, width, height, ratio);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(uniforms.centre, view.x, view.y);
    gl.uniform2f(uniforms.zoom, (2 * view.scale) / width, (2 * view.scale) / height);
    gl.uniform1f(uniforms.size, 2 * radius * ratio + 1);
    gl.uniform1f(uniforms.opacity, opacity);
    gl.drawArrays(gl.POINTS, 0, this.n);
  }

  /** Browsers allow few of these at a time: it goes back at once, not when the garbage is collected. */
  destroy() {
    this.isGone = true;
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

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

  draw(view, width, height, ratio, radius, opacity) {
    fitCanvas(this.canvas, width, height, ratio);
    const image = new ImageData(this.canvas.width, this.canvas.height);
    const { places, colours } = this;
    const stamp = discStamp(radius * ratio, opacity);
    const scale = view.scale * ratio;
    for (let i = 0; 2 * i < places.length; i++) {
      if (!colours[4 * i + 3]) continue;
      const px = Math.round(image.width / 2 + (places[2 * i] - view.x) * scale);
      const py = Math.round(image.height / 2 - (places[2 * i + 1] - view.y) * scale);
      if (px > -9 && py > -9 && px < image.width + 9 && py < image.height + 9) stampDisc(image, stamp, px, py, colours, 4 * i);
    }
    this.context.putImageData(image, 0, 0);
  }

  destroy() {}
}

/** The pixels of a disc about its middle: [{dx, dy, alpha}]. */
function discStamp(radius, opacity) {
  const reach = Math.ceil(radius);
  const stamp = [];
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const alpha = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy))) * opacity;
      if (alpha > 0) stamp.push({ dx, dy, alpha });
    }
  return stamp;
}

/** Lays a disc of the colour at colours[c] over what the image holds ("over": Porter & Duff 1984). */
function stampDisc(image, stamp, px, py, colours, c) {
  const { data, width, height } = image;
  for (const { dx, dy, alpha } of stamp) {
    const x = px + dx, y = py + dy;
    if (x < 0 || y < 0 || x >= width || y >= height) continue;
    const k = 4 * (y * width + x);
    const below = (data[k + 3] / 255) * (1 - alpha);
    const total = alpha + below;
    for (let channel = 0; channel < 3; channel++)
      data[k + channel] = (colours[c + channel] * alpha + data[k + channel] * below) / total;
    data[k + 3] = 255 * total;
  }
}
