// What one can choose above the map: layers, colours, ways to select; and the legend below it.

const LAYERS = {
  points: ["Points", "The images, each at its code"],
  pictures: ["Pictures", "What the model decodes all over the plane; finer as you zoom in"],
  regions: ["Class regions", `The class of most of the ${N_VOTES} nearest codes; pale where they disagree`],
  density: ["Density", "Where the codes lie densest: bands with as much of them as N(0, I) has within 1, 2 and 3 σ"],
  prior: ["Prior", "The prior N(0, I): 1, 2 and 3 standard deviations"],
  posterior: ["Posterior", "Click an image: its q(z|x) at 1 σ and 2 σ, and 50 samples of it"],
};
const DEFAULT_LAYERS = ["points", "prior"];

/** The layers that have a meaning on this map. */
function layersFor(plane, decoder) {
  const { header, invertible } = plane;
  const meaning = {
    points: true,
    pictures: invertible && decoder !== null,
    regions: header.classes.length > 1 && plane.order.length > 0 && (!invertible || Boolean(header.codes)),
    density: invertible && header.upward && plane.order.length > 1,
    prior: invertible && header.prior !== false,
    posterior: invertible && Boolean(plane.logvar),
  };
  return Object.keys(LAYERS).filter((name) => meaning[name]);
}

function layerChip(name) {
  const [title, meaning] = LAYERS[name];
  return `<label class="chip" title="${meaning}"><input type="checkbox" value="${name}">${title}</label>`;
}

class Controls {
  /** act: {layers(names), colour(name), select(tool)} is told what was chosen. */
  constructor(element, act) {
    this.element = element;
    this.act = act;
    element.addEventListener("change", (event) => {
      if (event.target.matches("select")) act.colour(event.target.value);
      else act.layers(this.chosenLayers());
    });
    element.addEventListener("click", (event) => {
      const tool = event.target.closest("button")?.dataset.select;
      if (tool) act.select(tool);
    });
  }

  build(layers, values) {
    this.element.innerHTML = `
      <div role="group" aria-label="Layers">${layers.map(layerChip).join("")}</div>
      <label>Colour <select><option value="">class</option></select></label>
      <div role="group" aria-label="Select points">Select
        <button data-select="box" aria-pressed="false" title="Drag a box around points (or Shift and drag)">Box</button>
        <button data-select="lasso" aria-pressed="false" title="Draw around points">Lasso</button>
        <button data-select="view" title="All points in view">In view</button>
        <button data-select="none" title="End the selection (Esc)">Clear</button>
      </div>`;
    const select = this.element.querySelector("select");
    for (const { name, title } of values) select.add(new Option(title, name));
    select.parentElement.hidden = values.length === 0;
  }

  chosenLayers() {
    return [...this.element.querySelectorAll("input:checked")].map((input) => input.value);
  }

  show({ layers, colour, tool, outline }) {
    for (const input of this.element.querySelectorAll("input")) input.checked = layers.includes(input.value);
    this.element.querySelector("select").value = colour;
    this.element.querySelector("[data-select=none]").hidden = outline.length === 0;
    for (const button of this.element.querySelectorAll("[aria-pressed]"))
      button.setAttribute("aria-pressed", String(button.dataset.select === tool));
  }
}

/** A button for each class, which hides and shows it. toggle(label) is told. */
function buildLegend(element, plane, colours, toggle) {
  const counts = new Uint32Array(256);
  for (const label of plane.labels) counts[label]++;
  element.replaceChildren(...plane.header.classes.map((name, label) => {
    const button = document.createElement("button");
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${colours[label % colours.length]})`;
    button.append(swatch, name);
    button.title = `${counts[label].toLocaleString("en")} images; click to hide or show them`;
    button.setAttribute("aria-pressed", String(!plane.hidden.has(label)));
    button.addEventListener("click", () => {
      toggle(label);
      button.setAttribute("aria-pressed", String(!plane.hidden.has(label)));
    });
    return button;
  }));
}

/** Numbers -> colours along a ramp of [r, g, b], from their 1st to their 99th percentile. */
class ColourScale {
  constructor(values, ramp) {
    const sorted = Float32Array.from(values).filter(Number.isFinite).sort();
    this.low = sorted[Math.floor(0.01 * (sorted.length - 1))] ?? 0;
    this.high = sorted[Math.ceil(0.99 * (sorted.length - 1))] ?? 1;
    this.ramp = ramp;
  }

  /** -> [r, g, b]; grey where there is no number. */
  colour(value) {
    if (!Number.isFinite(value)) return [128, 128, 128];
    const share = this.high > this.low ? (value - this.low) / (this.high - this.low) : 0.5;
    const place = Math.min(1, Math.max(0, share)) * (this.ramp.length - 1);
    const k = Math.min(this.ramp.length - 2, Math.floor(place));
    return this.ramp[k].map((channel, c) => channel + (place - k) * (this.ramp[k + 1][c] - channel));
  }
}

/** The scale as a bar with its ends' numbers. */
function showScale(element, title, scale) {
  const text = (value) => Number(value.toPrecision(3)).toLocaleString("en").replace("-", "−");
  const stops = scale.ramp.map((colour) => `rgb(${colour})`).join(", ");
  element.innerHTML = `<span class="name"></span> <span>≤ ${text(scale.low)}</span>
    <i style="background: linear-gradient(to right, ${stops})"></i> <span>≥ ${text(scale.high)}</span>`;
  element.querySelector(".name").textContent = title;
}

/** "#rrggbb" -> [r, g, b]. */
function fromHex(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}
