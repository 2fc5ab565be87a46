"""The instrument: a training as it forms, or its film played back. Curves, map, reconstructions, samples, KL.

Python wrapper beside its scripts and instrument.css; the map in it is that of latent_map, with the decoder of the
moment. Everything travels as one block of bytes; see `_payload`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from torch import nn

from pages.ui.latent_map import CLASS_COLOURS, MAP_CSS, NUMBER_COLOURS, axis_name, pack, read_scripts
from pages.ui.latent_map.decoder import MAX_BROWSER_WEIGHTS, n_weights, pack_decoder
from vae import ModelConfig, TrainConfig
from vae.config import WITHOUT_BETA, has_prior
from vae.film import SHEET_COLUMNS, Film, Frame, Live, Still
from vae.networks import for_class
from vae.train import Change, Record, Terms

_FOLDER = Path(__file__).parent
SCRIPTS = ("curves.js", "bars.js", "forming_map.js", "instrument.js")
_instrument = st.components.v2.component(
    "latentarium_instrument",
    html='<div class="instrument"></div>',
    css=MAP_CSS + (_FOLDER / "instrument.css").read_text(encoding="utf-8"),
    js="\n".join([read_scripts(), *((_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)]),
    isolate_styles=False,  # in the page's own document, where scripts and helpers for the disabled find it
)

EXAMPLES = {  # by whether the model denoises
    False: "Held-out images, and below their reconstructions",
    True: "Held-out images, the same corrupted, and below what is made of those",
}
MAP_HEIGHT = 340  # CSS pixels
COLLAPSED = {  # by whether the model has a prior
    True: "the pale ones have collapsed: Var(mu) ≤ 0.01 over the images (Burda et al., arXiv:1509.00519)",
    False: "the pale ones hardly vary: less than a hundredth of the greatest variance",
}
LOSSES = {  # by objective: the loss, and what the third curve shows
    "elbo": ("reconstruction + β · KL", "KL"),
    "iwae": ("−bound of log p(x)", "KL"),
    "capacity": ("reconstruction + β · |KL − C|", "|KL − C|"),
    "tcvae": ("reconstruction + KL + (β − 1) · total correlation", "Total correlation"),
    "mmd_rbf": ("reconstruction + β · MMD", "MMD from N(0, I)"),
    "mmd_imq": ("reconstruction + β · MMD", "MMD from N(0, I)"),
    "sliced_wasserstein": ("reconstruction + β · distance", "Sliced Wasserstein distance from N(0, I)"),
    "energy": ("reconstruction + β · distance", "Energy distance from N(0, I)"),
    "reconstruction": ("reconstruction", ""),  # nothing
    "l1": ("reconstruction + β · |z|", "Σ |z|"),
    "l2": ("reconstruction + β · |z|²", "Σ z²"),
    "sparse": ("reconstruction + β · KL(ρ ‖ ρ̂)", "KL(ρ ‖ ρ̂)"),
    "contractive": ("reconstruction + β · ‖dz/dx‖²", "‖dz/dx‖²"),
    "vq": ("reconstruction + β · codebook loss", "Codebook loss"),
}
# Objectives whose third curve, where they have one, is in nats; a distance or a norm has no unit.
IN_NATS = ("elbo", "iwae", "capacity", "tcvae", "reconstruction", "sparse")
SETTING_TITLES = {"beta": "β", "learning_rate": "learning rate", "epochs": "epochs"}


def instrument(payload: bytes, key: str) -> None:
    """Shows a run; with the same key, another payload of `live_payload` or `replay_payload` is shown in its place."""
    _instrument(key=key, data=payload)


def live_payload(
    name: str,
    model: ModelConfig,
    training: TrainConfig,
    class_names: Sequence[str],
    records: list[Record],
    changes: list[Change],
    live: Live | None,
) -> bytes:
    """A run under way: its curves so far, and the model as it is now, with its decoder."""
    frames = [live.frame] if live else []
    header = _header("live", name, model, training, class_names, records, changes, frames)
    decoder = _one_class(live.decoder, model) if live else None
    return _payload(header, records, live.still if live else None, frames, decoder)


def replay_payload(
    name: str,
    model: ModelConfig,
    training: TrainConfig,
    class_names: Sequence[str],
    records: list[Record],
    changes: list[Change],
    film: Film | None,
    decoder: nn.Sequential | None,
) -> bytes:
    """A run that has ended, with its film; decoder: that of the last frame, the only one that is kept."""
    frames = film.frames if film else []
    header = _header("replay", name, model, training, class_names, records, changes, frames)
    return _payload(header, records, film.still if film else None, frames, decoder and _one_class(decoder, model))


def term_titles(training: TrainConfig, labels: str = "unused") -> list[str]:
    """What the three curves show."""
    loss, penalty = LOSSES[training.objective]
    if training.objective == "elbo" and training.free_bits:
        loss = f"reconstruction + β · Σ max({training.free_bits:g}, KL)"
    recon = "−bound − KL" if training.objective == "iwae" else "Reconstruction"
    if labels == "predicted":
        loss += f" + {training.label_weight:g} · cross-entropy of known labels"
    return [f"Loss = {loss}", recon, penalty]


def _header(
    mode: str,
    name: str,
    model: ModelConfig,
    training: TrainConfig,
    class_names: Sequence[str],
    records: list[Record],
    changes: list[Change],
    frames: list[Frame],
) -> dict[str, Any]:
    n_dims = model.latent_dim
    one_dim = n_dims == 1
    return {
        "mode": mode,
        "id": f"training of {name} {n_dims}",
        "name": name,
        "epochs": training.epochs,
        "terms": term_titles(training, model.labels),
        "units": ["nats per image", "nats per image", "nats per image" if training.objective in IN_NATS else ""],
        "marks": [
            {"epoch": change.epoch, "text": f"{SETTING_TITLES.get(change.setting, change.setting)} {change.value:g}"}
            for change in changes
        ],
        "frames": [_moment(frame, records, training.objective not in WITHOUT_BETA) for frame in frames],
        "image_shape": model.image_shape,
        "n_dims": n_dims,
        "axis_names": [axis_name(0), "by chance"] if one_dim else [axis_name(0), axis_name(1)],
        "upward": not one_dim,
        "kind": "z",
        "classes": list(class_names),
        "colours": CLASS_COLOURS,
        "ramp": NUMBER_COLOURS,
        "height": MAP_HEIGHT,
        "columns": SHEET_COLUMNS,
        "collapsed": COLLAPSED[has_prior(model, training)],
        "prior": has_prior(model, training),
        "bars": "KL of each latent dimension, nats"
        if model.latent == "gaussian"
        else "Variance of each code dimension",
        "bar_unit": "nats" if model.latent == "gaussian" else "",
        "examples": EXAMPLES[training.corruption != "none"],
        "samples": _samples_title(model, training),
        "likelihood": model.likelihood,
        "notices": [f"The map decodes as class {class_names[0]}."] if model.labels == "given" else [],
        "layers": None,
    } | ({"axis_names": ["PC 1", "PC 2"], "kind": "pca"} if n_dims > 2 else {})


def _samples_title(model: ModelConfig, training: TrainConfig) -> str:
    if has_prior(model, training):
        drawn = "z ~ N(0, I)"
    else:
        drawn = "z from a Gaussian with the codes' mean and covariance"
    told = ", each column told its class" if model.labels == "given" else ""
    return f"Samples: decode(z), {drawn}, the same draw at each moment{told}"


def _moment(frame: Frame, records: list[Record], has_beta: bool) -> dict[str, Any]:
    """A frame in words: where it stands, and the settings of the last record before it.

    has_beta: of the objective; histories from before records left it out say 1.
    """
    record = next((record for record in reversed(records) if record.step <= frame.step), None)
    return {
        "step": frame.step,
        "epoch": frame.epoch,
        "beta": record.beta if record and has_beta else None,
        "learning_rate": record.learning_rate if record else None,
    }


def _payload(
    header: dict[str, Any],
    records: list[Record],
    still: Still | None,
    frames: list[Frame],
    decoder: nn.Sequential | None,
) -> bytes:
    """Packed as latent_map.map_payload says. Blocks, of R records, F frames, N points, D dimensions:
    history    f4 (R, 7)      epoch, then loss, reconstruction and KL in training, and held out; NaN for none
    labels     u1 (N,)        index into the header's classes
    points     f2 (F, N, 2)
    origins    f4 (F, D)      of the planes: z = origin + x * axes[0] + y * axes[1]
    axes       f4 (F, 2, D)
    kl         f4 (F, D)      nats
    active     u1 (F, D)
    examples   u1             PNG: the images that are reconstructed
    sheets     u1             PNGs back to back; the header's frames say where each starts and ends
    weights    f2             of the decoder, at the last frame; left out where it is too large for the browser
    """
    blocks: dict[str, np.ndarray] = {"history": _history(records)}
    if still and frames:
        blocks["labels"] = still.labels.numpy().astype(np.uint8)
        stacked = {
            name: torch.stack([getattr(frame, field) for frame in frames])
            for name, field in (("points", "points"), ("origins", "origin"), ("axes", "axes"), ("kl", "kl_per_dim"))
        }
        blocks["points"] = stacked.pop("points").clamp(-65504, 65504).numpy().astype("<f2")
        blocks |= {name: value.numpy().astype("<f4") for name, value in stacked.items()}
        blocks["active"] = torch.stack([frame.active for frame in frames]).numpy().astype(np.uint8)
        blocks["examples"] = _bytes(still.examples)
        blocks["sheets"] = _bytes(b"".join(frame.sheet for frame in frames))
        start = 0
        for moment, frame in zip(header["frames"], frames, strict=True):
            moment["sheet"] = [start, start + len(frame.sheet)]
            start += len(frame.sheet)
        if decoder is not None and n_weights(decoder) <= MAX_BROWSER_WEIGHTS:
            header["layers"], blocks["weights"] = pack_decoder(decoder, half=True, likelihood=header["likelihood"])
    return pack(header, {name: block.ravel() for name, block in blocks.items()})


def _history(records: list[Record]) -> np.ndarray:
    nothing = [float("nan")] * 3
    rows = [
        [record.epoch]
        + [
            value
            for terms in (record.train, record.held_out)
            for value in ([terms.loss, terms.recon_loss, _third(terms)] if terms else nothing)
        ]
        for record in records
    ]
    return np.array(rows, dtype="<f4").reshape(len(rows), 7)


def _one_class(decoder: nn.Sequential, model: ModelConfig) -> nn.Sequential:
    """The decoder of a conditional model as told its first class, which the map says."""
    return for_class(decoder, model.n_classes, 0) if model.labels == "given" else decoder


def _third(terms: Terms) -> float:
    """What the third curve shows: the penalty, or the KL if that is in the loss itself; NaN for none."""
    values = (value for value in (terms.penalty, terms.kl) if value is not None)
    return next(values, float("nan"))


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)
