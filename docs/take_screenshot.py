"""Takes the README's picture of the running app: `python docs/take_screenshot.py`, with Chromium or Chrome installed."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser import FLAGS, find_browser, run_app  # noqa: E402

PICTURE = Path(__file__).with_name("latentarium.png")


def main() -> None:
    with run_app({}) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1240, "height": 800})
        page.goto(address)
        page.locator(".latent-map[data-painted]").wait_for()
        box = page.get_by_label("Latent map").bounding_box()
        page.mouse.click(box["x"] + 0.32 * box["width"], box["y"] + 0.47 * box["height"])
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
