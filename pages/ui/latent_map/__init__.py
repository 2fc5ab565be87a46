"""The latent map: points in a plane that pan and zoom, where a click anywhere tells the spot.

Python wrapper beside its map.js and map.css; no build step. The points travel as one block of bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from vae.latent import Projection

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "latentarium_map",
    html='<div class="latent-map"></div>',
    css=(_FOLDER / "map.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "map.js").read_text(encoding="utf-8"),
)

# Ten colours that stay apart in the common kinds of colour blindness, on light and on dark.
# Source: Paul Tol's `bright` and `muted` schemes, https://personal.sron.nl/~pault/, lightness evened for both themes.
CLASS_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8833", "#8888dd", "#999999", "#a5673f",
)  # fmt: skip
AXIS_NAMES = {"z": ("z₁", "z₂"), "pca": ("first principal component", "second principal component"), "tsne": ("", "")}


@dataclass(frozen=True)
class Spot:
    """A place on the map, in data coordinates."""

    x: float
    y: float


@st.cache_data(max_entries=32, show_spinner=False)
def map_payload(
    name: str, stamp: tuple[int, ...], kind: str, height: int, _projection: Projection, _labels: np.ndarray,
    classes: tuple[str, ...],
) -> bytes:  # fmt: skip
    """Header length (uint32), JSON header, points (float32 x, y), labels (uint8). Little-endian, blocks at multiples of 4.

    name, stamp, kind and height are the cache key: together they fix the projection and its labels.
    """
    n_dims = _projection.mu.shape[1]
    axis_names = ("z₁", "chance, so that points don't hide each other") if kind == "z" and n_dims == 1 else AXIS_NAMES[kind]
    header = {
        "id": f"{name} {kind} {stamp}",
        "height": height,  # CSS pixels; less on a narrow screen
        "n": len(_projection.points),
        "axes": axis_names,
        "ticks": kind != "tsne",
        "prior": kind == "z" and n_dims == 2,
        "classes": classes,
        "colours": CLASS_COLOURS,
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 4)
    points = _projection.points.numpy().astype("<f4").tobytes()
    return len(head).to_bytes(4, "little") + head + points + _labels.astype(np.uint8).tobytes()


def latent_map(payload: bytes, key: str) -> Spot | None:
    """Draws the map; returns the spot that was just clicked, or None.

    payload: what `map_payload` made. The browser keeps the view (pan, zoom, crosshair) by model and projection.
    """
    result = _component(key=key, data=payload, on_click_change=lambda: None)
    if not result.click:
        return None
    try:
        spot = Spot(float(result.click["x"]), float(result.click["y"]))
    except (KeyError, TypeError, ValueError):
        return None
    return spot if np.isfinite([spot.x, spot.y]).all() else None
