// What the map shows, kept in the page's address and in the browser tab: a link or a refresh brings it back.

const LINK_DELAY = 300; // milliseconds; browsers refuse an address that changes too often

const NO_LAYERS = "none";
const isFinitePair = (numbers) => numbers.length >= 2 && numbers.every(Number.isFinite);

/** The address -> {view, pins, layers, colour, hidden}, null for what it does not hold. Throws if it can't be read. */
function readLink(search) {
  const fields = new URLSearchParams(search);
  const numbers = (text) => {
    const parts = text.split(",").map(Number);
    if (!isFinitePair(parts)) throw new RangeError(text);
    return parts;
  };
  const check = (isGood, value) => {
    if (!isGood) throw new RangeError(value);
    return value;
  };
  const known = (name) => check(name in LAYERS, name);
  const whole = (label) => check(Number.isInteger(label), label);
  const get = (name, read) => (fields.has(name) ? read(fields.get(name)) : null);
  return {
    view: get("view", (text) => {
      const [x, y, width] = numbers(text);
      if (!(width > 0)) throw new RangeError(text);
      return { x, y, width };
    }),
    pins: get("pins", (text) => text.split(";").filter(Boolean).slice(0, 2).map(numbers).map(([x, y]) => ({ x, y }))),
    layers: get("layers", (text) => (text === NO_LAYERS ? [] : text.split(",").map(known))),
    colour: get("colour", (text) => text),
    hidden: get("hidden", (text) => text.split(",").map(Number).map(whole)),
  };
}

/** Puts what the map shows into an address's fields and leaves its other fields as they are. */
function linkWith(search, { view, pins, layers, colour, hidden }) {
  const fields = new URLSearchParams(search);
  const short = (value) => String(Number(value.toPrecision(6)));
  const set = (name, text) => (text ? fields.set(name, text) : fields.delete(name));
  set("view", view && [view.x, view.y, view.width].map(short).join(","));
  set("pins", pins.map(({ x, y }) => `${short(x)},${short(y)}`).join(";"));
  set("layers", layers && (layers.join(",") || NO_LAYERS));
  set("colour", colour);
  set("hidden", hidden.join(","));
  return fields.toString().replaceAll("%2C", ",").replaceAll("%3B", ";");
}

/** Keeps small things for this browser tab; where storage is off or full, for as long as the page is shown. */
const tabMemory = {
  read(name) {
    try {
      return JSON.parse(sessionStorage.getItem(`latent-map ${name}`));
    } catch {
      return null;
    }
  },
  write(name, value) {
    try {
      sessionStorage.setItem(`latent-map ${name}`, JSON.stringify(value));
    } catch { /* it starts anew next time */ }
  },
};
