"""The figures of a checkpoint, measured in a worker process and kept with it.

`evaluation.json` says how far that is; `figures.json` holds what came out, and of which weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vae import data
from vae.checkpoint import CheckpointError, find, load_model, read_config, read_json, write_json
from vae.config import check_integer
from vae.evaluate import Evaluation, evaluate
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

STATE_FILE, LOCK_FILE, FIGURES_FILE = "evaluation.json", "evaluation.lock", "figures.json"
MAX_IMPORTANCE_SAMPLES = 100_000


@dataclass(frozen=True)
class EvaluationStatus:
    """How far an evaluation is."""

    state: str  # running or failed
    message: str
    fraction: float  # of the held-out images, 0 to 1


def start_evaluation(name: str, n_importance_samples: int) -> None:
    """Measures a checkpoint in a worker process, as `work_evaluation` says.

    Raises CheckpointError if there is no such checkpoint, ConfigError for a number of samples that can't be, RunError
    if it is in training or can't be written.
    """
    folder = find(name)
    check_integer("importance-samples", n_importance_samples, 0, MAX_IMPORTANCE_SAMPLES)
    _check_not_training(folder)
    job = evaluation_status(name)
    if job and job.state == "running":
        return  # someone else has asked for it
    try:
        write_json(folder / STATE_FILE, _state("queued", "", n_samples=n_importance_samples))
        start_worker("measure", name, folder)
    except OSError as error:
        raise RunError(unwritable(folder, error)) from error


def evaluation_status(name: str) -> EvaluationStatus | None:
    """How far the evaluation of a checkpoint is; None if none is under way and none has failed."""
    folder = find(name)
    try:
        content = read_work(folder / STATE_FILE, folder / LOCK_FILE, is_starting)
        state, message = content["state"], str(content["message"])
        fraction = content["done"] / max(1, content["total"])
    except (CheckpointError, KeyError, TypeError, ArithmeticError):
        return None
    if state in ACTIVE_STATES:
        return EvaluationStatus("running", message, min(max(fraction, 0.0), 1.0))
    if state == "interrupted":
        message = f"The evaluation ended before it was done.{last_line(folder)}"
    return EvaluationStatus("failed", message, 0.0)


def work_evaluation(name: str) -> None:
    """Measures a checkpoint with the number of importance samples that was asked for, and keeps the figures with it.

    Raises CheckpointError if the checkpoint can't be read, DataError if its images are not here, RunError if it is in
    training or can't be written.
    """
    folder = find(name)
    _check_not_training(folder)
    n_samples = read_json(folder / STATE_FILE).get("n_samples", 0)
    with (
        locked(folder / LOCK_FILE),
        recorded(folder / STATE_FILE, lambda state, message: _state(state, message, n_samples=n_samples)),
    ):

        def report(done: int, total: int) -> None:
            write_json(folder / STATE_FILE, _state("running", "", done, total, n_samples))

        report(0, 1)
        keep_figures(name, measure(name, n_samples, progress=report))
        (folder / STATE_FILE).unlink(missing_ok=True)


def measure(
    name: str, n_importance_samples: int, seed: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """All figures of a checkpoint by the names of `evaluate.Evaluation`, and whose they are.

    progress: held-out images done, images in all. Raises CheckpointError or DataError.
    """
    folder = find(name)
    weights = _digest(folder)  # before they are loaded: a run in training may save others meanwhile
    model, (_, training) = load_model(folder), read_config(folder)
    train, held_out = (data.load_targets(training.dataset, split, training.targets) for split in data.SPLITS)
    if training.left_out_class >= 0:
        train = data.without_class(train, training.left_out_class)
    result = evaluate(model, training, train, held_out, n_importance_samples, seed, progress)
    return {"name": name, "dataset": training.dataset, **asdict(result), "weights": weights}


def keep_figures(name: str, figures: dict[str, Any]) -> None:
    """Writes what `measure` gave into the checkpoint's folder, for the Evaluate page. Raises RunError if it can't."""
    folder = find(name)
    try:
        write_json(folder / FIGURES_FILE, figures)
    except OSError as error:
        raise RunError(unwritable(folder, error)) from error


def read_figures(name: str) -> dict[str, Any] | None:
    """What was measured of a checkpoint; None if nothing was, if its weights are others now, or if an earlier version
    measured it, which had other figures."""
    folder = find(name)
    try:
        figures = read_json(folder / FIGURES_FILE)
        is_whole = all(field.name in figures for field in fields(Evaluation))
        return figures if is_whole and figures.get("weights") == _digest(folder) else None
    except (CheckpointError, OSError):
        return None


def _digest(folder: Path) -> str:
    """Of the weights; empty if they can't be read, which loading them says in a sentence."""
    try:
        return hashlib.blake2b((folder / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


def _state(state: str, message: str, done: int = 0, total: int = 1, n_samples: int = 0) -> dict[str, Any]:
    return state_of(state, message, done=done, total=total, n_samples=n_samples)


def _check_not_training(folder: Path) -> None:
    if read_state(folder)[0] in ACTIVE_STATES:
        raise RunError(f"{folder.name} is in training, and its weights still change; measure it when it has ended.")
