"""The latent map: points in a plane that pan and zoom, where the model decodes under the pointer, in the browser.

Python wrapper beside its scripts and map.css; no build step. Everything travels as one block of bytes; see map_payload.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import streamlit as st
import torch
from torch import Tensor

from pages.ui.latent_map.decoder import MAX_BROWSER_WEIGHTS, n_weights, pack_decoder, travels_as_half
from pages.ui.models import BY_STAMP, MapChoice, OpenModel, map_latents, project
from vae.objectives import kl_per_dim
from vae.pictures import data_uri, decode_pictures, png_bytes

_FOLDER = Path(__file__).parent
# Each uses those before it. One module: the component takes its script as text, so there is no place to import from.
SCRIPTS = (
    "decoder.js", "payload.js", "nearest.js", "plane.js", "points.js", "tiles.js", "layers.js", "posterior.js",
    "view.js", "drawing.js", "gestures.js", "link.js", "panel.js", "controls.js", "map.js",
)  # fmt: skip


def read_scripts(*more: str) -> str:
    """The map's scripts, and more of this folder, as the one module that a component takes."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in (*SCRIPTS, *more))


MAP_CSS = (_FOLDER / "map.css").read_text(encoding="utf-8")
_map = st.components.v2.component(
    "latentarium_map",
    html='<div class="latent-map"></div>',
    css=MAP_CSS,
    js=read_scripts("component.js"),
    isolate_styles=False,  # in the page's own document, where scripts and helpers for the disabled find it
)
_answer = st.components.v2.component(
    "latentarium_answer",
    html="<span hidden></span>",
    js="""
    export default function ({ data }) {
      const maps = [...document.querySelectorAll(".latent-map")].filter((root) => root.dataset.map === data.map);
      for (const root of maps) root.map?.pictures.receive?.(data);
    }
    """,
    isolate_styles=False,
)

MAX_PAYLOAD_BYTES = 8_000_000  # above this, fewer of the points travel
MAX_QUESTIONS = 4  # pictures that the browser may ask for at a time
# Petroff's ten colours, found by search to stay apart for colour-blind eyes too (arXiv:2107.02270). No ten do so for
# everyone, so the class is also said in words wherever the pointer or the crosshair is.
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
# matplotlib's viridis at eight even steps: lighter is more, also in grey.
NUMBER_COLOURS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
VALUE_TITLES = {"recon_loss": "reconstruction error at mu, nats", "kl": "KL, nats"}


@dataclass(frozen=True)
class Spot:
    """A place on the map, in data coordinates."""

    x: float
    y: float
    image: int | None = None  # the index of the image that the spot stands for, if it does
    what: Literal["pin", "crosshair", "nothing"] = "crosshair"  # nothing: all images are hidden, so no z is meant


@dataclass(frozen=True)
class Selection:
    """An outline on the map, in data coordinates, and the classes that its points leave out; empty: nothing."""

    outline: tuple[tuple[float, float], ...] = ()
    hidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """Pictures that the browser can't decode itself."""

    token: int
    z: Tensor  # (at most MAX_QUESTIONS, D)


@dataclass(frozen=True)
class Picks:
    """What was just done on the map; None for what was not."""

    spot: Spot | None = None
    selection: Selection | None = None
    question: Question | None = None


def decodes_in_browser(opened: OpenModel) -> bool:
    return n_weights(opened.model.decoder) <= MAX_BROWSER_WEIGHTS


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_STAMP)
def map_payload(opened: OpenModel, choice: MapChoice, height: int, tools: bool) -> bytes:
    """The map of a model's codes in one plane, as payload.js reads it.

    height: CSS pixels, less on a narrow screen. tools: with layers, colours and selection, and its state in the link.

    Header length (uint32), header (JSON), then the blocks that the header lists as [name, kind, length], each padded to
    a multiple of 4 bytes; little-endian. N is the number of points sent, D that of latent dimensions:
    points     f4 (N, 2)    data coordinates; NaN for a code that is no number, which is drawn nowhere
    labels     u1 (N,)      index into the header's classes
    logvar     f2 (N, D)    of the posterior; left out where a code has no spread
    mu         f2 (N, D)    left out where the points are mu itself (one or two dimensions)
    value i    f2 (N,)      of the header's values[i], {name, title}; those with a `dim` are a column of mu
    weights    f2 or f4     of the decoder, as decoder.py packs them; left out where the server decodes

    Header: version (of the content), id (of the map: view and pins are kept by it), name, height, tools, linked, n,
    stride (the i-th point is image stride * i; from n_held_out on they are training images), n_dims, kind,
    prior (whether N(0, I) means something to the model), origin (D,), axes (2, D; null without a way back), ticks and
    upward (whether the axes, and up and down, mean something), axis_names, classes, colours, ramp (of numbers), values,
    layers and image_shape (of the decoder), codes (whether z is known of each point), decodes, notices (sentences),
    blocks.
    """
    latents, projection = map_latents(opened, choice), project(opened, choice)
    n_dims = opened.config.latent_dim
    blocks: dict[str, np.ndarray] = {"points": projection.points.numpy().astype("<f4")}
    blocks["labels"] = latents.labels.numpy().astype(np.uint8)
    if opened.has_spread:
        blocks["logvar"] = latents.logvar.numpy().astype("<f2")
    if n_dims > 2:
        blocks["mu"] = projection.mu.numpy().astype("<f2")
    numbers = {"kl": kl_per_dim(latents.mu, latents.logvar).sum(1)} if opened.has_spread else {}
    numbers |= latents.values
    for i, value in enumerate(numbers.values()):
        blocks[f"value {i}"] = value.clamp(-65504, 65504).numpy().astype("<f2")  # the largest of float16
    values = [{"name": name, "title": VALUE_TITLES.get(name, name)} for name in numbers]
    if n_dims > 2:
        values += [{"name": f"z{i + 1}", "title": axis_name(i), "dim": i} for i in range(min(n_dims, 64))]
    stride = math.ceil(sum(block.nbytes for block in blocks.values()) / MAX_PAYLOAD_BYTES)
    blocks = {name: block[::stride] for name, block in blocks.items()}
    header = _header(opened, choice, height) | {
        "tools": tools,
        "linked": tools,
        "stride": stride,
        "values": values,
        "layers": None,
        "codes": True,
        "decodes": True,
        "notices": _notices(projection.points, stride),
    }
    header["n"] = len(blocks["points"])
    if decodes_in_browser(opened):
        header["layers"], blocks["weights"] = pack_decoder(
            opened.model.decoder, travels_as_half(opened.model.decoder), opened.config.likelihood
        )
    return pack(header, blocks)


def moving_payload(opened: OpenModel, choice: MapChoice, height: int, points: Tensor) -> bytes:
    """The points (N, 2) of a projection that is still being computed: no decoder, and no codes to decode."""
    header = _header(opened, choice, height) | {
        "tools": True, "linked": False, "stride": 1, "values": [], "layers": None, "codes": False, "decodes": False,
        "notices": [], "n": len(points),
    }  # fmt: skip
    labels = opened.latents.labels.numpy().astype(np.uint8)
    return pack(header, {"points": points.numpy().astype("<f4"), "labels": labels})


def _header(opened: OpenModel, choice: MapChoice, height: int) -> dict[str, Any]:
    n_dims = opened.config.latent_dim
    if choice.kind in ("tsne", "umap"):
        origin, axes = [0.0] * n_dims, None
    else:
        projection = project(opened, choice)
        origin, axes = projection.origin.tolist(), projection.axes.tolist()
    return {
        "id": map_id(opened, choice),
        "name": opened.name,
        "height": height,
        "n_held_out": len(opened.latents.mu),
        "n_dims": n_dims,
        "kind": choice.kind,
        "origin": origin,
        "axes": axes,
        "image_shape": opened.config.image_shape,
        "prior": opened.has_prior,
        "axis_names": _axis_names(choice, n_dims),
        "upward": n_dims > 1,
        "ticks": axes is not None,
        "classes": opened.class_names,
        "colours": CLASS_COLOURS,
        "ramp": NUMBER_COLOURS,
    }


def map_id(opened: OpenModel, choice: MapChoice) -> str:
    """Names a map in the browser, which keeps the view and the pins of each."""
    told = "" if opened.told is None else f" {opened.told}"
    return f"{opened.name}{told} {choice.kind} {choice.dims} {choice.hold} {choice.images}"


def axis_name(dim: int) -> str:
    """z₁ for 0."""
    return "z" + str(dim + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _axis_names(choice: MapChoice, n_dims: int) -> tuple[str, str]:
    if choice.kind == "pca":
        return "PC 1", "PC 2"
    if choice.kind == "z" and n_dims == 1:
        return axis_name(0), "by chance"
    across, up = choice.dims
    return axis_name(across), axis_name(up)


def _notices(points: Tensor, stride: int) -> list[str]:
    n, n_bad = len(points), int((~points.isfinite().all(1)).sum())
    notices = []
    if n_bad:
        notices.append(f"{n_bad:,} of {n:,} codes are not numbers; they are not drawn.")
    if stride > 1:
        notices.append(f"One in {stride} of {n:,} images is drawn: all of them would be too much for the browser.")
    return notices


def pack(header: dict[str, Any], blocks: dict[str, np.ndarray]) -> bytes:
    """Header length, header, blocks, as `map_payload` says; completes the header."""
    kinds = {"float32": "f4", "float16": "f2", "uint8": "u1"}
    header["blocks"] = [[name, kinds[block.dtype.name], block.size] for name, block in blocks.items()]
    body = b"".join(_padded(np.ascontiguousarray(block).tobytes()) for block in blocks.values())
    header["version"] = hashlib.blake2b(json.dumps(header).encode() + body, digest_size=8).hexdigest()
    head = _padded(json.dumps(header).encode())
    return len(head).to_bytes(4, "little") + head + body


def _padded(content: bytes) -> bytes:
    return content + b" " * (-len(content) % 4)


def latent_map(payload: bytes, key: str) -> Picks:
    """Draws the map; returns what was just done on it.

    payload: what `map_payload` or `moving_payload` made. The browser keeps the view and the pins by the map's id.
    What comes back is checked: {x, y, image, what}; {outline: [[x, y], ...], hidden: [class, ...]};
    {token, z: [[...], ...]}.
    """
    events = ("click", "selection", "decode")
    result = _map(key=key, data=payload, **{f"on_{event}_change": lambda: None for event in events})
    return Picks(_read_spot(result.click), _read_selection(result.selection), _read_question(result.decode))


def answer(opened: OpenModel, choice: MapChoice, question: Question, key: str) -> None:
    """Sends a map the pictures that it asked for, as PNG."""
    if question.z.shape[1] != opened.config.latent_dim:
        return  # asked of another model, meanwhile changed
    pictures = [data_uri(png_bytes(picture, 1)) for picture in decode_pictures(opened.model, question.z)]
    _answer(key=key, data={"map": map_id(opened, choice), "token": question.token, "pictures": pictures})


def _read_spot(click: Any) -> Spot | None:
    try:
        image = click.get("image")
        what = click["what"] if click.get("what") in ("pin", "nothing") else "crosshair"
        spot = Spot(float(click["x"]), float(click["y"]), None if image is None else int(image), what)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return spot if math.isfinite(spot.x) and math.isfinite(spot.y) else None


def _read_selection(selection: Any) -> Selection | None:
    try:
        outline = tuple((float(x), float(y)) for x, y in selection["outline"])
        hidden = tuple(label for label in map(int, selection["hidden"]) if 0 <= label < 256)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    is_sound = len(outline) <= 400 and all(math.isfinite(value) for corner in outline for value in corner)
    return Selection(outline, hidden) if is_sound else None


def _read_question(question: Any) -> Question | None:
    try:
        z = torch.tensor(question["z"], dtype=torch.float32)
        token = int(question["token"])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
        return None
    is_sound = z.ndim == 2 and 0 < len(z) <= MAX_QUESTIONS and bool(z.isfinite().all())
    return Question(token, z) if is_sound else None
