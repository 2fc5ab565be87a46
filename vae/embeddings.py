"""A t-SNE or UMAP of a checkpoint's codes, made in a worker process and kept with the checkpoint.

`embedding.json` says how far it is, `embedding.points` where the points lie meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae.checkpoint import (
    CheckpointError,
    find,
    load_latents,
    read_config,
    save_latents,
    write_atomically,
    write_json,
)
from vae.latent import EMBEDDINGS, N_TSNE_STEPS, compute_embedding
from vae.processes import (
    ACTIVE_STATES,
    RunError,
    is_starting,
    last_line,
    locked,
    read_work,
    recorded,
    start_worker,
    state_of,
    unwritable,
)
from vae.runs import read_state

POINTS_SECONDS = 0.4  # between two looks at the points of a t-SNE under way


@dataclass(frozen=True)
class EmbeddingStatus:
    """How far a t-SNE or UMAP is."""

    kind: str  # one of EMBEDDINGS
    state: str  # running or failed
    message: str
    fraction: float  # done, 0 to 1


def start_embedding(name: str, kind: str) -> None:
    """Computes a t-SNE or UMAP of a checkpoint's codes in a worker process and keeps it with the checkpoint.

    kind: one of EMBEDDINGS. Raises CheckpointError if there is no such checkpoint, RunError if it is in training or
    can't be written.
    """
    folder = find(name)
    _check_not_training(folder)
    job = embedding_status(name)
    if job and job.state == "running":
        return  # someone else has asked for it
    try:
        write_json(folder / "embedding.json", _state(kind, "queued", ""))
        start_worker(kind, name, folder)
    except OSError as error:
        raise RunError(unwritable(folder, error)) from error


def embedding_status(name: str) -> EmbeddingStatus | None:
    """How far the t-SNE or UMAP of a checkpoint's codes is; None if none is being made."""
    folder = find(name)
    try:
        content = read_work(folder / "embedding.json", folder / "embedding.lock", is_starting)
        kind, state, message = content["kind"], content["state"], str(content["message"])
        fraction, title = content["done"] / content["total"], EMBEDDINGS[kind]
    except (CheckpointError, KeyError, TypeError, ArithmeticError):
        return None
    if state in ACTIVE_STATES:
        return EmbeddingStatus(kind, "running", message, min(max(fraction, 0.0), 1.0))
    if state == "interrupted":
        message = f"The {title} ended before it was done.{last_line(folder)}"
    return EmbeddingStatus(kind, "failed", message, 0.0)


def embedding_so_far(name: str) -> Tensor | None:
    """Where the points of a t-SNE under way lie just now, (N, 2) float32; None if that is not known."""
    try:
        points = load_tensors((find(name) / "embedding.points").read_bytes())["points"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return points.float() if points.ndim == 2 and points.shape[1] == 2 else None


def work_embedding(name: str, kind: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Computes a t-SNE or UMAP of a checkpoint's codes (seed 0), in this process, and keeps it with the checkpoint.

    kind: one of EMBEDDINGS. progress is called with steps done, steps in all; the folder's files say the same to
    whoever watches. Raises CheckpointError if the checkpoint can't be read, RunError if it is in training or can't be
    written.
    """
    folder = find(name)
    _check_not_training(folder)
    next_look = 0.0

    def report(done: int, total: int, points: Tensor | None = None) -> None:
        nonlocal next_look
        write_json(folder / "embedding.json", _state(kind, "running", "", done, total))
        if points is not None and time.monotonic() >= next_look:
            write_atomically({folder / "embedding.points": tensors_to_bytes({"points": points})})
            next_look = time.monotonic() + POINTS_SECONDS
        progress(done, total)

    with (
        locked(folder / "embedding.lock"),
        recorded(folder / "embedding.json", lambda state, message: _state(kind, state, message)),
    ):
        (folder / "embedding.points").unlink(missing_ok=True)  # of an earlier try
        report(0, N_TSNE_STEPS)
        _, config = read_config(folder)
        latents = load_latents(folder)
        try:
            points = compute_embedding(kind, latents.mu, report)
        except ValueError as error:
            raise RunError(f"There is no {EMBEDDINGS[kind]} of {name}: {error}.") from error
        save_latents(folder, replace(latents, embeddings={**latents.embeddings, kind: points}), config.half)
        for leftover in ("embedding.points", "embedding.json"):
            (folder / leftover).unlink(missing_ok=True)


def _state(kind: str, state: str, message: str, done: int = 0, total: int = N_TSNE_STEPS) -> dict[str, Any]:
    return state_of(state, message, kind=kind, done=done, total=total)


def _check_not_training(folder: Path) -> None:
    if read_state(folder)[0] in ACTIVE_STATES:
        raise RunError(f"{folder.name} is in training, and its codes still change; make the map when it has ended.")
