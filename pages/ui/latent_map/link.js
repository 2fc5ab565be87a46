// What the map shows, kept in the page's address and in the browser tab: a link or a refresh brings it back.

const LINK_DELAY = 300; // milliseconds; browsers refuse an address that changes too often

const NO_LAYERS = "none";
const MAX_PINS = 2;
const MAX_PLACE = 1e6; // further out there is no map, and float32 has no room

/**
 * The address -> {view, pins, layers, colour, hidden}, null for what it does not hold, and unread: the names of those
 * that can't be read.
 */
function readLink(search) {
  const fields = new URLSearchParams(search);
  const link = { unread: [] };
  for (const [name, read] of Object.entries(LINK_FIELDS)) {
    try {
      link[name] = fields.has(name) ? read(fields.get(name)) : null;
    } catch {
      link[name] = null;
      link.unread.push(name);
    }
  }
  return link;
}

const LINK_FIELDS = {
  view(text) {
    const [x, y, width] = readPlace(text);
    return { x, y, width: checked(width, width > 0) };
  },
  pins(text) {
    const places = text.split(";").filter(Boolean).map(readPlace);
    return checked(places, places.length <= MAX_PINS).map(([x, y]) => ({ x, y }));
  },
  layers: (text) => (text === NO_LAYERS ? [] : text.split(",").map(readLayer)),
  colour: (text) => text,
  hidden: (text) => text.split(",").filter(Boolean).map(readLabel),
};

/** Numbers that can be a place on a map. */
function readPlace(text) {
  const numbers = text.split(",").map(Number);
  return checked(numbers, numbers.length >= 2 && numbers.every((number) => Math.abs(number) <= MAX_PLACE));
}

function readLayer(name) {
  return checked(name, Object.hasOwn(LAYERS, name));
}

function readLabel(text) {
  const label = Number(text);
  return checked(label, Number.isInteger(label) && label >= 0 && label < 256);
}

function checked(value, isGood) {
  if (!isGood) throw new RangeError(value);
  return value;
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
