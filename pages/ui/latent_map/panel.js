// What stands beside the map: the decoded picture, the pins' pictures, an image's posterior.

const PIN_NAMES = ["A", "B"];
const MAX_Z_SHOWN = 24; // numbers of a z in one line

/** A z as people read it. */
function zText(z) {
  const rest = z.length > MAX_Z_SHOWN ? `, … ${z.length - MAX_Z_SHOWN} more` : "";
  return `(${Array.from(z).slice(0, MAX_Z_SHOWN).map((value) => decimals(value)).join(", ")}${rest})`;
}

class Panel {
  /** act: {save, clear, redraw, zoom}, what the buttons do. */
  constructor(element, act) {
    this.element = element;
    element.innerHTML = `
      <img alt="Decoded image" aria-label="Decoded image" decoding="sync">
      <figcaption></figcaption>
      <p class="z"></p>
      <button data-do="save">Save as PNG</button>
      <section class="pins" aria-label="Pinned spots" hidden>
        <div class="pair">${PIN_NAMES.map((name) => `
          <figure><img alt="Pin ${name}, decoded" decoding="sync">
            <figcaption><b>${name}</b> <span></span></figcaption></figure>`).join("")}
        </div>
        <p class="distance"></p>
        <button data-do="clear">Clear pins (Esc)</button>
      </section>
      <section class="posterior" aria-label="Posterior of the pinned image" hidden>
        <p class="whose"></p>
        <div class="pair">
          <figure><img alt="Decoded mean of the posterior" decoding="sync">
            <figcaption>decode(mu)</figcaption></figure>
          <figure><img alt="Decoded sample of the posterior" decoding="sync">
            <figcaption>decode(sample)</figcaption></figure>
        </div>
        <p>The ring on the map is the sample z&nbsp;=&nbsp;mu&nbsp;+&nbsp;σ&nbsp;·&nbsp;ε.
          <span class="ring"></span></p>
        <div class="scroll"><table>
          <thead><tr><th></th><th>mu</th><th>σ</th><th>ε</th><th>z</th></tr></thead><tbody></tbody>
        </table></div>
        <p class="held" hidden>The map shows what this plane has of it; the pictures have all dimensions.</p>
        <button data-do="redraw">New sample</button>
        <button data-do="zoom">Zoom to it</button>
      </section>`;
    const find = (selector) => element.querySelector(selector);
    this.picture = find("img");
    this.caption = find("figcaption");
    this.zLine = find(".z");
    this.pins = find(".pins");
    this.posterior = find(".posterior");
    this.ringHint = find(".ring");
    element.addEventListener("click", (event) => act[event.target.closest("button")?.dataset.do]?.());
  }

  showMain(source, caption, z) {
    this.picture.src = source;
    this.caption.textContent = caption;
    this.zLine.textContent = `z = ${zText(z)}`;
  }

  /** There is nothing to decode, for this reason. */
  showNoMain(reason) {
    this.picture.removeAttribute("src");
    this.caption.textContent = reason;
    this.zLine.textContent = "";
  }

  /** pins: none, or up to two of {source, z}. */
  showPins(pins) {
    this.pins.hidden = pins.length === 0;
    this.pins.querySelectorAll("figure").forEach((figure, k) => {
      figure.hidden = !pins[k];
      if (!pins[k]) return;
      figure.querySelector("img").src = pins[k].source;
      figure.querySelector("span").textContent = zText(pins[k].z.slice(0, 4)) + (pins[k].z.length > 4 ? " …" : "");
    });
    this.pins.querySelector(".distance").innerHTML = pins.length === 2
      ? `‖z<sub>A</sub> − z<sub>B</sub>‖ = ${decimals(distance(pins[0].z, pins[1].z))}`
      : "Click another spot to compare it with this one.";
  }

  /** isOver: whether the ring lies over the pin, where it can't be dragged. */
  showRingHint(isOver) {
    this.ringHint.textContent = isOver ? "Zoom to it, then drag the ring." : "Drag it.";
  }

  hidePosterior() {
    this.posterior.hidden = true;
  }

  /** sources: of decode(mu) and decode(sample). */
  showPosterior(posterior, whose, sources) {
    this.posterior.hidden = false;
    this.posterior.querySelectorAll("img").forEach((img, k) => (img.src = sources[k]));
    this.posterior.querySelector(".whose").textContent = whose;
    this.posterior.querySelector(".held").hidden = posterior.mu.length <= 2;
    const z = posterior.z();
    const row = (mu, d) => {
      const numbers = [mu, posterior.sigma[d], posterior.eps[d], z[d]].map((value) => decimals(value));
      return `<tr>${[`z${subscript(d + 1)}`, ...numbers].map((text) => `<td>${text}</td>`).join("")}</tr>`;
    };
    this.posterior.querySelector("tbody").innerHTML = posterior.mu.map(row).join("");
  }

  save(name) {
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    const scale = Math.max(1, Math.round(252 / width));
    const large = Object.assign(document.createElement("canvas"), { width: scale * width, height: scale * height });
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, 0, 0, large.width, large.height);
    Object.assign(document.createElement("a"), { href: large.toDataURL(), download: `${name}-decoded.png` }).click();
  }
}

function subscript(number) {
  return String(number).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);
}
