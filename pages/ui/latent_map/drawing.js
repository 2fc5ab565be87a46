// What is drawn in lines and letters. look: {ink, paper (colours), rgb (of the ink), typeSize (CSS pixels), font}.

/** The look of the page just now, from Streamlit's theme: CSS variables on an ancestor. */
function readLook(element) {
  const style = getComputedStyle(element);
  const typeSize = Math.max(12, 0.85 * parseFloat(style.fontSize)); // larger on a full screen
  return {
    ink: style.color,
    paper: style.getPropertyValue("--st-background-color"),
    rgb: style.color.match(/[\d.]+/g).slice(0, 3).map(Number),
    typeSize,
    font: `${typeSize}px ${style.fontFamily}`,
  };
}

/** A canvas of the view's size, cleared, in CSS pixels. */
function beginDrawing(context, { width, height, ratio }) {
  fitCanvas(context.canvas, width, height, ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
}

/** A number as people write it: with a minus sign, not a hyphen, and none before zero. */
function decimals(value, n_digits = 2) {
  const text = value.toFixed(n_digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** Text on a slip of paper, so that it is legible on whatever lies under it. */
function drawText(context, look, string, px, py, align, alpha = 1) {
  Object.assign(context, { font: look.font, textAlign: align });
  const box = context.measureText(string), height = look.typeSize;
  Object.assign(context, { fillStyle: look.paper, globalAlpha: 0.85 });
  context.fillRect(px - box.actualBoundingBoxLeft - 2, py - 0.85 * height, box.width + 4, 1.1 * height);
  Object.assign(context, { fillStyle: look.ink, globalAlpha: alpha });
  context.fillText(string, px, py);
  context.globalAlpha = 1;
}

function drawLine(context, look, x1, y1, x2, y2, alpha) {
  Object.assign(context, { strokeStyle: look.ink, globalAlpha: alpha, lineWidth: 1 });
  context.beginPath();
  context.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  context.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
  context.stroke();
  context.globalAlpha = 1;
}

/** Lines at round numbers, 70 CSS pixels apart or more; numbers at the lower and, if up has a meaning, the left edge. */
function drawGrid(context, view, look, upward) {
  const least = 70 / view.scale;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].find((multiple) => multiple * power >= least) * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const low = view.toData(0, view.height), high = view.toData(view.width, 0);
  const number = (i, px, py, align) => drawText(context, look, decimals(i * step, digits), px, py, align, 0.75);
  for (let i = Math.ceil(low.x / step); i * step <= high.x; i++) {
    const [px] = view.toScreen({ x: i * step, y: 0 });
    drawLine(context, look, px, 0, px, view.height, i === 0 ? 0.35 : 0.1);
    if (px > 14 && px < view.width - 14) number(i, px, view.height - 6, "center");
  }
  for (let i = Math.ceil(low.y / step); i * step <= high.y; i++) {
    const [, py] = view.toScreen({ x: 0, y: i * step });
    drawLine(context, look, 0, py, view.width, py, i === 0 ? 0.35 : 0.1);
    if (upward && py < view.height - 2 * look.typeSize) number(i, 6, py - 4, "left");
  }
}

function drawAxisNames(context, view, look, [across, up]) {
  drawText(context, look, `${across} →`, view.width - 8, view.height - 2 * look.typeSize, "right");
  drawText(context, look, `${up} ↑`, view.width - 8, 44 + look.typeSize, "right");
}

/** The prior N(0, I) at 1, 2 and 3 standard deviations: circles about the place of z = 0; lines in one dimension. */
function drawPrior(context, view, look, plane) {
  const { origin, upward } = plane.header;
  const [px, py] = view.toScreen(plane.stepOf(origin.map((value) => -value)));
  for (const sigma of [1, 2, 3]) {
    const radius = sigma * view.scale;
    Object.assign(context, { strokeStyle: look.ink, lineWidth: 1, globalAlpha: 0.5 });
    context.setLineDash([4, 4]);
    context.beginPath();
    if (upward) context.arc(px, py, radius, 0, 2 * Math.PI);
    for (const x of upward ? [] : [px - radius, px + radius]) {
      context.moveTo(x, 0);
      context.lineTo(x, view.height);
    }
    context.stroke();
    context.setLineDash([]);
    const name = (text, x, y) => drawText(context, look, text, x, y, "center");
    if (upward) name(`${sigma}σ`, px + radius * Math.SQRT1_2, py - radius * Math.SQRT1_2);
    else {
      name(`−${sigma}σ`, px - radius, 16);
      name(`${sigma}σ`, px + radius, 16);
    }
  }
}

/** Its ellipses at 1 and 2 standard deviations, to scale, and some samples; in one dimension, flat ones. */
function drawPosterior(context, view, look, posterior) {
  context.fillStyle = look.ink;
  for (const spot of posterior.samples(N_SAMPLES)) {
    context.beginPath();
    context.arc(...view.toScreen(spot), 1.8, 0, 2 * Math.PI);
    context.fill();
  }
  const centre = view.toScreen(posterior.centre);
  const { long, short, angle } = posterior.ellipse();
  for (const [colour, width] of [[look.paper, 4], [look.ink, 2]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    for (const sigma of [1, 2]) {
      const a = sigma * long * view.scale;
      const b = posterior.plane.header.upward ? sigma * short * view.scale : 4;
      context.beginPath();
      context.ellipse(...centre, a, b, -angle, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

function drawOutline(context, view, look, outline) {
  context.beginPath();
  for (const spot of outline) context.lineTo(...view.toScreen(spot));
  context.closePath();
  Object.assign(context, { fillStyle: look.ink, strokeStyle: look.ink, globalAlpha: 0.1, lineWidth: 1.5 });
  context.fill();
  context.globalAlpha = 1;
  context.setLineDash([6, 3]);
  context.stroke();
  context.setLineDash([]);
}
