"""Takes the README's picture of the running app: `python -m docs.take_screenshot`, with a browser installed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.app_server import app_server, chromium, open_map

PICTURE = Path(__file__).with_name("latentarium.png")


def main() -> None:
    with app_server() as server, chromium() as browser:
        page = open_map(browser, server.url)
        page.set_viewport_size({"width": 1240, "height": 800})
        box = page.get_by_label("Latent map").bounding_box()
        page.mouse.click(box["x"] + 0.32 * box["width"], box["y"] + 0.47 * box["height"])
        page.wait_for_timeout(1500)
        page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
