"""The latent map: points in a plane that pan and zoom, where a click anywhere tells the spot.

Python wrapper beside its map.js and map.css; no build step. The points travel as one block of bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from torch import Tensor

from pages.ui.latent_map.decoder import MAX_BROWSER_WEIGHTS, n_decoder_weights, pack_decoder
from pages.ui.models import BY_STAMP, OpenModel, project

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "latentarium_map",
    html='<div class="latent-map"></div>',
    css=(_FOLDER / "map.css").read_text(encoding="utf-8"),
    # One module: the component takes its script as text, so there is no place to import from.
    js="\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("decoder.js", "map.js")),
    isolate_styles=False,  # in the page's own document, where scripts and helpers for the disabled find it
)

# Paul Tol's `bright` scheme, made for colour-blind eyes (https://personal.sron.nl/~pault/), and four more: no ten
# colours stay apart for everyone, so the class is also said in words wherever the pointer or the crosshair is.
CLASS_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8833", "#8888dd", "#999999", "#a5673f",
)  # fmt: skip
AXIS_NAMES = {"z": ("z₁", "z₂"), "pca": ("PC 1", "PC 2"), "tsne": ("", "")}


@dataclass(frozen=True)
class Spot:
    """A place on the map, in data coordinates."""

    x: float
    y: float


def decodes_in_browser(opened: OpenModel) -> bool:
    return n_decoder_weights(opened.model) <= MAX_BROWSER_WEIGHTS


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_STAMP)
def map_payload(opened: OpenModel, kind: str, height: int) -> bytes:
    """The map of a model in one projection, as map.js reads it.

    kind: z, pca or tsne; height: CSS pixels, less on a narrow screen.
    Header length (uint32), JSON header, points (float32 x, y), mu (float32, t-SNE only), the decoder's weights
    (float16, where it runs in the browser), labels (uint8); little-endian, the header padded to a multiple of 4.
    """
    projection, n_dims = project(opened, kind), opened.config.latent_dim
    mu = projection.mu if kind == "tsne" else projection.mu[:0]
    layers, weights = pack_decoder(opened.model) if decodes_in_browser(opened) else (None, b"")
    header = {
        "id": f"{opened.name} {kind} {opened.stamp}",
        "name": opened.name,
        "height": height,
        "n": len(projection.points),
        "n_mu": len(mu),
        "n_dims": n_dims,
        "kind": kind,
        "origin": projection.origin.tolist(),
        "axes": projection.axes.tolist(),
        "layers": layers,
        "image_shape": opened.config.image_shape,
        "axis_names": ("z₁", "by chance") if n_dims == 1 else AXIS_NAMES[kind],
        "upward": n_dims > 1,  # whether up and down has a meaning
        "ticks": kind != "tsne",
        "prior": kind == "z" and n_dims == 2,
        "classes": opened.class_names,
        "colours": CLASS_COLOURS,
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 4)
    labels = opened.latents.labels.numpy().astype(np.uint8)
    blocks = [_to_bytes(projection.points), _to_bytes(mu), weights, labels.tobytes()]
    return len(head).to_bytes(4, "little") + head + b"".join(blocks)


def _to_bytes(numbers: Tensor) -> bytes:
    return numbers.numpy().astype("<f4").tobytes()


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
