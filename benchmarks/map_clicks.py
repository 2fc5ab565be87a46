"""From the pointer on the latent map to the decoded picture on screen, in Chromium.

    python -m benchmarks.map_clicks
    python -m benchmarks.map_clicks --spots 200 --maps "mnist-2d"

Real input at random spots of the map, empty areas included, one at a time: taps, which decode on release, and movements
of the mouse, which decode as it goes. Measured inside the page, in milliseconds from the time stamp of the event until
the new picture
- is in the document, and
- is painted: the image is decoded and two animation frames have begun, so up to 33 ms of it is waiting for the screen.
Then the pointer circles for five seconds: decoded pictures a second.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable

from playwright.sync_api import Page

from benchmarks.app_server import app_server, chromium, open_map, p50_p95, print_setting
from benchmarks.report import print_table

MAPS = {
    "mnist-2d": "model=mnist-2d",
    "mnist-16d, PCA": "model=mnist-16d",
    "mnist-16d, t-SNE": "model=mnist-16d&projection=t-SNE",
}
N_WARM_UP = 5

# Events on the map -> window.times: [{inDocument, painted}], milliseconds; window.changes counts new pictures.
WATCH = """
(canvas) => {
  const picture = document.querySelector('img[alt="Decoded image"]');
  window.times = [];
  window.changes = 0;
  let start = null;
  const movement = "onpointerrawupdate" in window ? "pointerrawupdate" : "pointermove"; // the earlier one
  for (const kind of ["pointerup", movement])
    canvas.addEventListener(kind, (event) => { start = event.timeStamp; }, true);
  new MutationObserver(async () => {
    window.changes++;
    if (start === null) return;
    const began = start, inDocument = performance.now() - start;
    start = null;
    await picture.decode().catch(() => {}); // overtaken by the next picture
    requestAnimationFrame(() => requestAnimationFrame(
      () => window.times.push({ inDocument, painted: performance.now() - began })));
  }).observe(picture, { attributeFilter: ["src"] });
}
"""
CIRCLE_SECONDS = 5


def map_box(page: Page) -> dict[str, float]:
    """Of the whole map, in view: x, y, width and height in CSS pixels."""
    page.get_by_label("Latent map").scroll_into_view_if_needed()
    return page.get_by_label("Latent map").bounding_box()


def time_spots(page: Page, act: Callable[[float, float], None], n_spots: int, seed: int) -> list[dict[str, float]]:
    """`inDocument` and `painted` of each act (a tap or a movement) at a random spot, milliseconds."""
    box = map_box(page)
    chance = random.Random(seed)
    page.evaluate("window.times = []")
    for i in range(N_WARM_UP + n_spots):
        # Left and right in turn: spots near each other may decode to the same picture, which would be no new one.
        x = chance.uniform(0.02, 0.45) + 0.5 * (i % 2)
        y = chance.uniform(0.1, 0.98)  # the zoom buttons lie above
        act(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.wait_for_function(f"window.times.length > {i}", polling=50)
        page.wait_for_timeout(chance.uniform(200, 400))
    return page.evaluate("window.times")[N_WARM_UP:]


def pictures_per_second(page: Page) -> float:
    """While the pointer circles, as fast as the browser takes its movements."""
    box = map_box(page)
    before, begin, i = page.evaluate("window.changes"), time.perf_counter(), 0
    while time.perf_counter() - begin < CIRCLE_SECONDS:
        x, y = 0.5 + 0.3 * math.cos(i / 20), 0.5 + 0.3 * math.sin(i / 20)
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        i += 1
    return (page.evaluate("window.changes") - before) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=list(MAPS), metavar="MAP", help=", ".join(MAPS))
    parser.add_argument("--spots", type=int, default=60, help="on each map, for taps and movements each (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the spots (default 0)")
    args = parser.parse_args()

    rows = []
    with app_server() as server, chromium() as browser:
        print_setting(browser)
        for name in args.maps:
            page = open_map(browser, f"{server.url}/latent_map?{MAPS[name]}")
            page.get_by_label("Latent map").evaluate(WATCH)
            for what, act in {"tap": page.touchscreen.tap, "move": page.mouse.move}.items():
                times = time_spots(page, act, args.spots, args.seed)
                in_document, painted = (p50_p95([time[key] for time in times]) for key in ("inDocument", "painted"))
                speed = f"{pictures_per_second(page):.0f}" if what == "move" else ""
                rows.append([name, what, *(f"{p50:.0f} ({p95:.0f})" for p50, p95 in (in_document, painted)), speed])
            page.context.close()
    header = ["map", "event", "in the document, p50 (p95) ms", "painted, p50 (p95) ms", "pictures a second"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
