// What hands do on the map. One finger or the mouse drags the view, a pin, or an outline; two fingers pinch; keys go
// everywhere.

const CLICK_SLACK = 5; // pointer movement in CSS pixels that still counts as a click
const PIN_REACH = 11; // CSS pixels from a pin within which a drag moves it

class Gestures {
  /** canvas: where the hands are; map: a LatentMap, whose verbs are called. */
  constructor(canvas, map) {
    Object.assign(this, { canvas, map });
    this.pointers = new Map(); // those that are down, by id: {px, py}
    const listen = (name, act, options) => {
      canvas.addEventListener(name, (event) => map.isReady && act.call(this, event), options);
    };
    listen("pointerdown", this.down);
    listen("pointermove", this.move);
    // As it happens, not once a frame; browsers offer it on trusted addresses alone.
    listen("onpointerrawupdate" in window ? "pointerrawupdate" : "pointermove", this.hover);
    listen("pointerup", this.up);
    listen("pointercancel", this.cancel);
    listen("pointerleave", (event) => event.pointerType !== "touch" && map.leave()); // a lifted finger leaves too
    listen("wheel", this.wheel, { passive: false });
    listen("keydown", this.key);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const [px, py] = this.at(event);
    const isFirst = this.pointers.size === 0;
    if (!isFirst) this.undo();
    this.pointers.set(event.pointerId, { px, py });
    this.travel = isFirst ? 0 : Infinity; // a second finger makes it a pinch, never a click
    this.kind = isFirst ? this.kindAt(px, py, event.shiftKey) : "pinch";
    this.path = [[px, py]];
    this.before = { outline: this.map.outline, pin: this.map.pins[this.kind] };
  }

  /** Puts back what the gesture in hand has moved or drawn. */
  undo() {
    if (this.travel <= CLICK_SLACK) return;
    if (this.kind === "box" || this.kind === "lasso") this.map.showOutline(this.before.outline);
    else if (this.before.pin) this.map.movePin(this.kind, this.before.pin);
  }

  /** Ends the gesture in hand as if it had not been; returns whether there was one. */
  abandon() {
    if (!this.pointers.size) return false;
    this.undo();
    this.pointers.clear();
    this.canvas.classList.remove("dragging");
    return true;
  }

  /** pan, box, lasso, or the number of the pin that is dragged. */
  kindAt(px, py, shift) {
    const { tool, header, pins, view } = this.map;
    if (tool) return tool;
    if (shift && header.tools) return "box";
    const isNear = (pin) => {
      const [x, y] = view.toScreen(pin);
      return Math.hypot(px - x, py - y) < PIN_REACH;
    };
    const pin = pins.findLastIndex(isNear);
    return pin < 0 ? "pan" : pin;
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const [px, py] = this.at(event);
    this.travel += Math.hypot(px - last.px, py - last.py);
    this.pointers.set(event.pointerId, { px, py });
    if (this.travel <= CLICK_SLACK) return;
    if (this.kind === "pinch") this.pinch(event.pointerId, last, px, py);
    else if (this.kind === "pan") this.pan(px - last.px, py - last.py);
    else if (this.kind === "box" || this.kind === "lasso") this.map.showOutline(this.outlineTo(px, py));
    else this.map.movePin(this.kind, this.map.view.toData(px, py));
  }

  pan(dx, dy) {
    this.canvas.classList.add("dragging");
    this.map.pan(dx, dy);
  }

  pinch(id, last, px, py) {
    const other = [...this.pointers].find(([each]) => each !== id)?.[1];
    if (!other) return;
    const gap = (a) => Math.hypot(a.px - other.px, a.py - other.py);
    this.map.zoomAt((px + other.px) / 2, (py + other.py) / 2, gap({ px, py }) / (gap(last) || 1));
    this.pan((px - last.px) / 2, (py - last.py) / 2); // each of two fingers carries half of the movement
  }

  /** The corners of a box, or the way of a lasso so far, as spots. */
  outlineTo(px, py) {
    this.path.push([px, py]);
    const [[left, top]] = this.path;
    const corners = this.kind === "box" ? [[left, top], [px, top], [px, py], [left, py]] : this.path;
    return corners.map((corner) => this.map.view.toData(...corner));
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.canvas.classList.remove("dragging");
    const isClick = this.travel <= CLICK_SLACK;
    if (isClick) this.map.pin(this.map.view.toData(...this.at(event)));
    else if (this.kind === "pan" || this.kind === "pinch") this.map.remember();
    else if (this.kind === "box" || this.kind === "lasso") this.map.select();
    else this.map.reportSpot();
  }

  cancel(event) {
    if (this.pointers.has(event.pointerId)) this.abandon();
  }

  hover(event) {
    if (this.pointers.size || event.pointerType === "touch") return;
    this.map.show(this.map.view.toData(...this.at(event)));
  }

  wheel(event) {
    event.preventDefault();
    this.map.zoomAt(...this.at(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's own
    const { map } = this, { view, spot } = map;
    const here = view.toScreen(spot), step = arrowStep(event);
    if (step) {
      const clamp = (value, limit) => Math.min(limit - 1, Math.max(1, value));
      map.stepSpot(view.toData(clamp(here[0] + step[0], view.width), clamp(here[1] + step[1], view.height)));
    } else if (event.key === "Enter" || event.key === " ") map.pin(spot);
    else if (event.key === "Escape") this.escape();
    else if (event.key === "+" || event.key === "=") map.zoomAt(...here, 1.5);
    else if (event.key === "-") map.zoomAt(...here, 1 / 1.5);
    else if (event.key === "0") map.fit();
    else return;
    event.preventDefault();
  }

  /** One thing at a time: the gesture or the tool in hand, the selection, the pins. */
  escape() {
    const { map } = this, isEnded = this.abandon();
    if (isEnded || map.tool) map.setTool(null);
    else if (map.outline.length) map.clearSelection();
    else map.clearPins();
  }
}

/** The step of an arrow key in CSS pixels, [dx, dy]; null for another key. */
function arrowStep(event) {
  const step = event.shiftKey ? 2 : 16;
  return { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? null;
}

/** The ring that one drags over the map, or moves by arrow keys: calls moveTo(px, py) on the map's canvas. */
function listenToRing(ring, canvas, at, moveTo) {
  ring.addEventListener("pointerdown", (event) => ring.setPointerCapture(event.pointerId));
  ring.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (ring.hasPointerCapture(event.pointerId)) moveTo(event.clientX - box.left, event.clientY - box.top);
  });
  ring.addEventListener("keydown", (event) => {
    const step = arrowStep(event);
    if (!step) return;
    event.preventDefault();
    const [px, py] = at();
    moveTo(px + step[0], py + step[1]);
  });
}
