"""A checkpoint is a folder: save, load, list, verify. Nothing that a file holds is ever executed.

config.json           the model's settings at the top (the Hugging Face layout), the training's under "training"
model.safetensors     the weights
history.jsonl         a line per training record
latents.safetensors   mu, logvar and label of each held-out image, and a t-SNE of mu where one was made
metrics.json          held-out ELBO and its parts
run.json              the state of the run that wrote it
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae.config import ConfigError, ModelConfig, TrainConfig
from vae.data import dataset_info
from vae.latent import Latents
from vae.model import VAE
from vae.train import Record, Terms

SHIPPED_ROOT = Path(__file__).resolve().parent.parent / "checkpoints"
MAX_JSON_BYTES = 1_000_000
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign or damaged; the message says which, and what to do."""


@dataclass(frozen=True)
class Metrics:
    """Held-out figures of the stored weights: nats per image, one z for each image."""

    n_images: int
    elbo: float
    recon_loss: float
    kl: float
    epochs: float  # trained so far
    seconds: float  # spent training


@dataclass(frozen=True)
class Summary:
    """A line of the list of checkpoints. `problem` says why the checkpoint can't be opened, None if it can."""

    name: str
    model: ModelConfig | None = None
    training: TrainConfig | None = None
    metrics: Metrics | None = None
    problem: str | None = None


def checkpoint_root() -> Path:
    """Where new checkpoints are written: $LATENTARIUM_CHECKPOINTS, else beside those that ship."""
    return Path(os.environ.get("LATENTARIUM_CHECKPOINTS") or SHIPPED_ROOT).expanduser()


def check_name(name: str) -> None:
    """Raises ConfigError if a name could not be a folder's on every system, or leaves the checkpoints folder."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or name.endswith("."):
        raise ConfigError(
            "name",
            f"{name!r} was given; use up to 64 letters, digits, '-', '_' and '.', starting with a letter or digit",
        )


def find(name: str) -> Path:
    """The folder of a checkpoint, among the user's own and the shipped ones. Raises CheckpointError if there is none."""
    try:
        check_name(name)
    except ConfigError as error:
        raise CheckpointError(f"There is no checkpoint {name!r}: that can't be a name.") from error
    for root in (checkpoint_root(), SHIPPED_ROOT):
        if (root / name).is_dir():
            return root / name
    raise CheckpointError(
        f"There is no checkpoint {name!r} in {checkpoint_root()}; `python -m vae list` shows those there are."
    )


def list_checkpoints() -> list[Summary]:
    """All checkpoints and runs by name, the unreadable ones with the reason."""
    folders: dict[str, Path] = {}
    for root in (SHIPPED_ROOT, checkpoint_root()):
        if root.is_dir():
            folders |= {
                path.name: path for path in root.iterdir() if path.is_dir() and NAME_PATTERN.fullmatch(path.name)
            }
    return [_summarize(folders[name]) for name in sorted(folders)]


def _summarize(folder: Path) -> Summary:
    try:
        model, training = read_config(folder)
        if not (folder / "model.safetensors").is_file():
            return Summary(folder.name, model, training, None, f"{folder.name} has no weights yet.")
        return Summary(folder.name, model, training, read_metrics(folder))
    except CheckpointError as error:
        return Summary(folder.name, problem=str(error))


# Writing


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside, then renames into place: a crash or a full disk leaves the old file or the new one, whole."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_config(folder: Path, model: ModelConfig, training: TrainConfig) -> None:
    write_json(folder / "config.json", {**asdict(model), "training": asdict(training)})


def save_weights(folder: Path, model: VAE, half: bool) -> None:
    """half: store float16; loading gives float32 again."""
    dtype = torch.float16 if half else torch.float32
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", tensors_to_bytes(weights, metadata={"format": "pt"}))


def save_latents(folder: Path, latents: Latents, half: bool) -> None:
    dtype = torch.float16 if half else torch.float32
    tensors = {"mu": latents.mu, "logvar": latents.logvar}
    if latents.tsne is not None:
        tensors["tsne"] = latents.tsne
    tensors = {name: value.to(dtype).contiguous() for name, value in tensors.items()}
    write_atomically(
        folder / "latents.safetensors", tensors_to_bytes(tensors | {"labels": latents.labels.to(torch.uint8)})
    )


# Reading


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError if the file is missing, unreadable, no JSON, or no JSON object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(_damaged(path, "it is far too large"))
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(_damaged(path, "it is missing")) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(_damaged(path, "it can't be read as JSON")) from error
    if not isinstance(content, dict):
        raise CheckpointError(_damaged(path, "it holds no JSON object"))
    return content


def _damaged(path: Path, reason: str) -> str:
    return f"The checkpoint {path.parent.name} can't be opened: {path.name}: {reason}; copy it there again, or delete {path.parent}."


def read_config(folder: Path) -> tuple[ModelConfig, TrainConfig]:
    content = read_json(folder / "config.json")
    training = content.get("training")
    if not isinstance(training, dict):
        raise CheckpointError(_damaged(folder / "config.json", "it is not one that Latentarium wrote"))
    try:
        model = ModelConfig(**{field.name: content[field.name] for field in fields(ModelConfig)})
        train = TrainConfig(**{field.name: training[field.name] for field in fields(TrainConfig)})
        info = dataset_info(train.dataset)
        if info.image_shape != model.image_shape:
            raise ConfigError("image_shape", f"{model.image_shape} is not that of {train.dataset}, {info.image_shape}")
    except KeyError as error:
        raise CheckpointError(_damaged(folder / "config.json", f"{error.args[0]} is missing")) from error
    except (ConfigError, TypeError) as error:
        raise CheckpointError(_damaged(folder / "config.json", str(error))) from error
    return model, train


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(_damaged(path, "it is missing")) from error
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(_damaged(path, "it is cut short or is no safetensors file")) from error


def load_model(folder: Path) -> VAE:
    """The model in eval mode, float32, on the CPU, its weights frozen: it may be shared by threads.

    Raises CheckpointError if a file is missing, damaged or of another model.
    """
    config, _ = read_config(folder)
    path = folder / "model.safetensors"
    weights = {name: value.float() for name, value in _read_tensors(path).items()}
    if not all(value.isfinite().all() for value in weights.values()):
        raise CheckpointError(_damaged(path, "some weights are not numbers"))
    model = VAE(config)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            _damaged(path, "its weights are those of another network than config.json says")
        ) from error
    return model.eval().requires_grad_(False)


def load_latents(folder: Path) -> Latents:
    """The encoded held-out images. Raises CheckpointError if the file is missing, damaged or of another model."""
    config, training = read_config(folder)
    path = folder / "latents.safetensors"
    tensors = _read_tensors(path)
    mu, logvar, labels, tsne = (tensors.get(name) for name in ("mu", "logvar", "labels", "tsne"))
    n_classes = len(dataset_info(training.dataset).class_names)
    n = 0 if mu is None else len(mu)
    shapes_fit = (
        mu is not None and logvar is not None and labels is not None
        and mu.shape == logvar.shape == (n, config.latent_dim) and labels.shape == (n,) and n > 0
        and (tsne is None or tsne.shape == (n, 2)) and int(labels.max()) < n_classes
    )  # fmt: skip
    if not shapes_fit:
        raise CheckpointError(_damaged(path, "its codes are not those of the model that config.json describes"))
    return Latents(mu.float(), logvar.float(), labels.long(), None if tsne is None else tsne.float())


def read_metrics(folder: Path) -> Metrics:
    content = read_json(folder / "metrics.json")
    try:
        values = {field.name: content[field.name] for field in fields(Metrics)}
    except KeyError as error:
        raise CheckpointError(_damaged(folder / "metrics.json", f"{error.args[0]} is missing")) from error
    if not all(isinstance(value, int | float) for value in values.values()):
        raise CheckpointError(_damaged(folder / "metrics.json", "it holds something else than numbers"))
    return Metrics(**values)


def read_history(folder: Path) -> list[Record]:
    """The records so far; a line that is being written, or was cut by a crash, does not count."""
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            content = json.loads(line)
            terms = {key: Terms(**content[key]) if content[key] else None for key in ("train", "held_out")}
            records.append(Record(**(content | terms)))
        except (ValueError, TypeError, KeyError):
            continue
    return records
