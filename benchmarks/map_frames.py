"""How smoothly the latent map follows the hand, in Chromium: pictures and frames a second, pointer to picture.

    python -m benchmarks.map_frames
    python -m benchmarks.map_frames --maps "70,000 points" --seconds 10

Real input on each map, measured inside the page:
- pictures a second: the mouse circles over the map; new addresses of the decoded picture are counted
- while tiles are made: the same, with the layer Pictures on, while its tiles are still being made after a zoom by two
- frames a second: a finger drags to and fro, then the wheel zooms in and out, moved by the browser itself once a frame
  (what comes through DevTools one by one arrives half as often); those frames count for which the map was drawn
- pointer to picture: single movements of the mouse at random times, from the time stamp of the first event that tells
  of one until the new picture is in the document, milliseconds
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable

from playwright.sync_api import Page

from benchmarks.app_server import app_server, chromium, open_map, p50_p95, print_setting
from benchmarks.map_clicks import map_box, time_spots
from benchmarks.report import print_table

MAPS = {
    "10,000 points": "model=mnist-2d",
    "70,000 points": "model=mnist-2d&images=all+images%2C+also+those+trained+on",
    "mnist-16d, PCA": "model=mnist-16d",
}
MAX_ZOOMS = 7  # by two; the map ends at 200
ROOT = "document.querySelector('.latent-map')"
PLACES = (0.5, 0.4, 0.6, 0.3, 0.7)  # of the map's sides: what is zoomed into, one after another

# window.count: milliseconds, new pictures and drawn frames since it began, and those of them while tiles were missing;
# begin, end: of input, milliseconds of the page's clock.
# window.times: [{inDocument}] of each new picture after a movement, milliseconds.
WATCH = """
(canvas) => {
  const { map } = document.querySelector(".latent-map"), { draw } = map;
  const picture = document.querySelector('img[alt="Decoded image"]');
  window.startCount = () => { window.count = { time: 0, pictures: 0, frames: 0, tileTime: 0, tilePictures: 0 }; };
  window.startCount();
  window.times = [];
  let start = null, isDrawn = false, last = performance.now();
  map.draw = () => { isDrawn = true; draw.call(map); };
  for (const kind of ["pointermove", "wheel"])
    canvas.addEventListener(kind, () => {
      window.count.end = performance.now();
      window.count.begin ??= window.count.end;
    }, true);
  const movement = "onpointerrawupdate" in window ? "pointerrawupdate" : "pointermove"; // the earlier one
  canvas.addEventListener(movement, (event) => { start = event.timeStamp; }, true);
  new MutationObserver(() => {
    window.count.pictures++;
    if (map.idle.handle) window.count.tilePictures++;
    if (start !== null) window.times.push({ inDocument: performance.now() - start });
    start = null;
  }).observe(picture, { attributeFilter: ["src"] });
  requestAnimationFrame(function frame(now) {
    window.count.time += now - last;
    if (map.idle.handle) window.count.tileTime += now - last;
    if (isDrawn) window.count.frames++;
    [isDrawn, last] = [false, now];
    requestAnimationFrame(frame);
  });
}
"""


def spots_on_circle(page: Page, radius: float = 0.3) -> Callable[[int], tuple[float, float]]:
    """i -> a place in the page; 126 steps go round. radius: of the map's sides."""
    box = map_box(page)

    def spot(i: int) -> tuple[float, float]:
        x, y = 0.5 + radius * math.cos(i / 20), 0.5 + radius * math.sin(i / 20)
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    return spot


def pictures_per_second(page: Page, seconds: float) -> float:
    spot, i = spots_on_circle(page), 0
    page.evaluate("startCount()")
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        page.mouse.move(*spot(i := i + 1))
    count = page.evaluate("count")
    return 1000 * count["pictures"] / count["time"]


def frames_per_second(page: Page, seconds: float, source: str, length: int) -> float:
    """While the browser moves a finger ("touch") or the wheel ("mouse") so many CSS pixels, and back."""
    devtools = page.context.new_cdp_session(page)
    x, y = spots_on_circle(page, radius=0)(0)
    n_frames, milliseconds = 0, 0
    for sign in (1, -1):
        page.evaluate("startCount()")
        way = {"x": x, "y": y - sign * length / 2 * (source == "touch"), "yDistance": sign * length}
        speed = {"speed": round(2 * length / seconds), "preventFling": True, "gestureSourceType": source}
        devtools.send("Input.synthesizeScrollGesture", way | speed)
        count = page.evaluate("count")
        n_frames += count["frames"]
        milliseconds += count["end"] - count["begin"]
    devtools.detach()
    return 1000 * n_frames / milliseconds


def pictures_per_second_with_tiles(page: Page, seconds: float) -> tuple[float, float]:
    """While tiles are made, and for how long they were, seconds; zooms in again as soon as all are there."""
    layer = page.get_by_role("checkbox", name="Pictures")
    layer.check()
    spot, i = spots_on_circle(page), 0
    page.evaluate("startCount()")
    for place, n_zooms in itertools.product(PLACES, range(MAX_ZOOMS)):
        if n_zooms == 0:
            page.get_by_label("Show all points").click()
        page.evaluate(f"{ROOT}.map.zoomAt({place} * {ROOT}.map.view.width, {place} * {ROOT}.map.view.height, 2)")
        for _ in range(3):  # the first frames draw the zoom
            page.mouse.move(*spot(i := i + 1))
        while page.evaluate(f"{ROOT}.map.idle.handle"):
            for _ in range(10):
                page.mouse.move(*spot(i := i + 1))
        if page.evaluate("count.tileTime") > 1000 * seconds:
            break
    count = page.evaluate("count")
    layer.uncheck()
    page.get_by_label("Show all points").click()
    return 1000 * count["tilePictures"] / count["tileTime"], count["tileTime"] / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=list(MAPS), metavar="MAP", help="; ".join(MAPS))
    parser.add_argument("--seconds", type=float, default=5, help="of each movement (default 5)")
    parser.add_argument("--spots", type=int, default=60, help="single movements on each map (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the spots (default 0)")
    args = parser.parse_args()

    rows = []
    with app_server() as server, chromium() as browser:
        print_setting(browser)
        for name in args.maps:
            page = open_map(browser, f"{server.url}/latent_map?{MAPS[name]}")
            page.get_by_label("Latent map").evaluate(WATCH)
            p50, p95 = p50_p95(
                [time["inDocument"] for time in time_spots(page, page.mouse.move, args.spots, args.seed)]
            )
            circling = pictures_per_second(page, args.seconds)
            panning = frames_per_second(page, args.seconds, "touch", 400)
            zooming = frames_per_second(page, args.seconds, "mouse", 1200)
            with_tiles, tile_seconds = pictures_per_second_with_tiles(page, args.seconds)
            rows.append([
                name, f"{circling:.0f}", f"{with_tiles:.0f} (for {tile_seconds:.1f} s)", f"{panning:.0f}",
                f"{zooming:.0f}", f"{p50:.1f} ({p95:.1f})",
            ])  # fmt: skip
            page.context.close()
    header = ["map", "pictures a second", "while tiles are made", "frames a second, panning", "zooming"]
    print_table([*header, "pointer to picture, p50 (p95) ms"], rows)


if __name__ == "__main__":
    main()
