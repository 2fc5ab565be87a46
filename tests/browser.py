"""What the browser tests share: looking at the page."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page

WAIT = 60_000  # milliseconds; a busy machine is slow, not wrong


def wait_for_map(page: Page) -> Locator:
    page.locator(".latent-map[data-painted]").wait_for()
    return page.get_by_label("Latent map", exact=True)


def picture_of(page: Page, name: str = "Decoded image") -> np.ndarray:
    """A picture that is shown, (H, W) in 0 to 255."""
    source = page.get_by_alt_text(name, exact=True).get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("L"))


def wait_for_another_picture(page: Page, before: np.ndarray) -> np.ndarray:
    deadline = time.monotonic() + WAIT / 1000
    while time.monotonic() < deadline:
        now = picture_of(page)
        if now.shape != before.shape or (now != before).any():
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the picture did not change")


def shown_z(page: Page) -> list[float]:
    text = page.locator(".panel > .z").inner_text().replace("−", "-")
    return [float(part) for part in text.split("(")[1].split(")")[0].split(",")]
