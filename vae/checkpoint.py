"""A checkpoint is a folder: save, load, list, verify. Nothing that a file holds is ever executed.

config.json           the model's settings at the top (the Hugging Face layout), the training's under "training"
model.safetensors     the weights
history.jsonl         a line per training record
latents.safetensors   mu, logvar and label of each held-out image; t-SNE and UMAP of mu where they were made; and any
                      other number of each image under a name of its own, such as recon_loss
metrics.json          held-out ELBO and its parts
run.json              the state of the run that wrote it
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import textwrap
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae.config import ConfigError, ModelConfig, TrainConfig
from vae.data import dataset_info
from vae.latent import EMBEDDINGS, Latents
from vae.model import VAE
from vae.train import Change, Record, Terms

SHIPPED_ROOT = Path(__file__).resolve().parent.parent / "checkpoints"
SHIPPED_NAMES = ("digits-2d", "mnist-16d", "mnist-2d", "mnist-conv-iwae", "mnist-iwae-50", "mnist-vae-50")
MAX_JSON_BYTES = 1_000_000
# Settings that were always there; configs of earlier versions have no others.
FIRST_SETTINGS = {
    "image_shape", "network", "channels", "widths", "latent_dim", "activation", "likelihood", "sigma",
    "dataset", "epochs", "batch_size", "learning_rate", "schedule", "beta", "seed", "device", "threads", "half",
}  # fmt: skip
# Windows keeps a few names for devices, whatever follows a dot in them.
NAME_PATTERN = re.compile(
    r"(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9][a-z0-9._-]{0,63}", re.ASCII | re.IGNORECASE
)


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign or damaged; the message says which, and what to do."""


@dataclass(frozen=True)
class Metrics:
    """Held-out figures of the stored weights: nats per image, one z for each image."""

    n_images: int
    elbo: float | None  # None where the code has no spread
    recon_loss: float
    kl: float | None
    epochs: float  # trained so far
    seconds: float  # spent training
    active_units: int | None = None  # latent dimensions in use, see evaluate.active_dims; None in older checkpoints


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
    return Path(os.path.expanduser(os.environ.get("LATENTARIUM_CHECKPOINTS") or SHIPPED_ROOT))


def check_name(name: str) -> None:
    """Raises ConfigError if a name could not be a folder's on every system, or leaves the checkpoints folder."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or name.endswith("."):
        raise ConfigError(
            "name",
            f"{name!r} was given; use up to 64 letters, digits, '-', '_' and '.', starting with a letter or digit",
        )


def find(name: str) -> Path:
    """The folder of a checkpoint, the user's own or a shipped one. Raises CheckpointError if there is none."""
    try:
        check_name(name)
    except ConfigError as error:
        raise CheckpointError(f"There is no checkpoint {name!r}: that can't be a name.") from error
    for root in (checkpoint_root(), SHIPPED_ROOT):
        if os.path.isdir(root / name):  # False, too, where the root may not be read
            return root / name
    raise CheckpointError(
        f"There is no checkpoint {name!r} in {checkpoint_root()}; `python -m vae list` shows those there are."
    )


def is_shipped(folder: Path) -> bool:
    """Whether a checkpoint's folder is one of those that ship with the program."""
    return folder.parent == SHIPPED_ROOT and folder.name in SHIPPED_NAMES


def list_checkpoints() -> list[Summary]:
    """All checkpoints and runs by name, the unreadable ones with the reason."""
    folders = {folder.name: folder for root in (SHIPPED_ROOT, checkpoint_root()) for folder in checkpoint_folders(root)}
    return [_summarize(folders[name]) for name in sorted(folders)]


def checkpoint_folders(root: Path) -> list[Path]:
    """The folders that may hold a checkpoint; none where there is no such root, or it may not be read."""
    try:
        return [Path(entry) for entry in os.scandir(root) if NAME_PATTERN.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return []


def _summarize(folder: Path) -> Summary:
    try:
        model, training = read_config(folder)
        if not (folder / "model.safetensors").is_file():
            return Summary(folder.name, model, training, None, f"{folder.name} has no weights yet.")
        return Summary(folder.name, model, training, read_metrics(folder))
    except CheckpointError as error:
        return Summary(folder.name, problem=str(error))


# Writing


def write_atomically(contents: dict[Path, bytes]) -> None:
    """Writes all files beside their places, then renames them into place: a crash leaves the old or the new of each,
    whole, and a full disk the old of all."""
    scratches: dict[str, Path] = {}
    try:
        for path, content in contents.items():
            descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
            scratches[scratch] = path
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(scratch, 0o644)  # mkstemp makes files that only their owner can read
        for scratch, path in scratches.items():
            os.replace(scratch, path)
    except BaseException:
        for scratch in scratches:
            Path(scratch).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically({path: _to_json(content)})


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def save_config(folder: Path, model: ModelConfig, training: TrainConfig) -> None:
    write_json(folder / "config.json", {**asdict(model), "training": asdict(training)})


def save_results(folder: Path, model: VAE, latents: Latents, metrics: Metrics, half: bool) -> None:
    """Weights, codes and figures, which belong together. half: store float16; loading gives float32 again."""
    write_atomically({
        folder / "latents.safetensors": _latents_to_bytes(latents, half),
        folder / "metrics.json": _to_json(asdict(metrics)),
        folder / "model.safetensors": _weights_to_bytes(model, half),  # last: with it the checkpoint is whole
    })  # fmt: skip


def save_latents(folder: Path, latents: Latents, half: bool) -> None:
    write_atomically({folder / "latents.safetensors": _latents_to_bytes(latents, half)})


def _weights_to_bytes(model: VAE, half: bool) -> bytes:
    dtype = torch.float16 if half else torch.float32
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    return tensors_to_bytes(weights, metadata={"format": "pt"})


def _latents_to_bytes(latents: Latents, half: bool) -> bytes:
    dtype = torch.float16 if half else torch.float32
    tensors = {"mu": latents.mu, "logvar": latents.logvar, **latents.embeddings}
    tensors = {name: value.to(dtype).contiguous() for name, value in tensors.items()}
    tensors |= {name: value.float().contiguous() for name, value in latents.values.items()}
    if latents.has_labels:
        tensors["labels"] = latents.labels.to(torch.uint8)
    return tensors_to_bytes(tensors)


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
    reason = textwrap.shorten(reason, 200, placeholder=" ...")  # it may quote what the file holds
    return (
        f"The checkpoint {path.parent.name} can't be opened: {path.name}: {reason}; "
        f"copy it there again, or delete {path.parent}."
    )


def read_config(folder: Path) -> tuple[ModelConfig, TrainConfig]:
    content = read_json(folder / "config.json")
    training = content.get("training")
    if not isinstance(training, dict):
        raise CheckpointError(_damaged(folder / "config.json", "it is not one that Latentarium wrote"))
    try:
        model = ModelConfig(**_known(ModelConfig, content))
        train = TrainConfig(**_known(TrainConfig, training))
        info = dataset_info(train.dataset)
        if info.image_shape != model.image_shape:
            raise ConfigError("image_shape", f"{model.image_shape} is not that of {train.dataset}, {info.image_shape}")
    except KeyError as error:
        raise CheckpointError(_damaged(folder / "config.json", f"{error.args[0]} is missing")) from error
    except (ConfigError, TypeError) as error:
        raise CheckpointError(_damaged(folder / "config.json", str(error))) from error
    return model, train


def _known(config: type, content: dict[str, Any]) -> dict[str, Any]:
    """The config's fields in a file. One that came later has its default: it says what the program did before.

    Raises KeyError if one is missing that was always there.
    """
    names = [field.name for field in fields(config)]
    return {name: content[name] for name in names if name in FIRST_SETTINGS or name in content}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(_damaged(path, "it is missing")) from error
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
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
    with torch.device("meta"):  # no memory for a network that config.json describes and the weights don't fill
        model = VAE(config)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            _damaged(path, "its weights are those of another network than config.json says")
        ) from error
    return model.eval().requires_grad_(False)


def load_latents(folder: Path) -> Latents:
    """The encoded held-out images; some codes may be no numbers, but not all.

    Raises CheckpointError if the file is missing, damaged or of another model.
    """
    config, training = read_config(folder)
    path = folder / "latents.safetensors"
    tensors = _read_tensors(path)
    labels = tensors.pop("labels", None)
    codes = {name: tensors.pop(name, torch.empty(0)).float() for name in ("mu", "logvar")}
    n, n_classes = codes["mu"].shape[:1].numel(), len(dataset_info(training.dataset).class_names)
    embeddings = {name: tensors.pop(name).float() for name in EMBEDDINGS if name in tensors}
    values = {name: value.float() for name, value in tensors.items()}
    fits = (
        n > 0
        and all(value.shape == (n, config.latent_dim) for value in codes.values())
        and all(value.shape == (n, 2) and bool(value.isfinite().any()) for value in embeddings.values())
        and all(value.shape == (n,) for value in values.values())
        and (labels is None or (labels.dtype == torch.uint8 and labels.shape == (n,) and int(labels.max()) < n_classes))
    )
    if not fits:
        raise CheckpointError(_damaged(path, "its codes are not those of the model that config.json describes"))
    latents = Latents(
        **codes,
        labels=torch.zeros(n, dtype=torch.long) if labels is None else labels.long(),
        embeddings=embeddings,
        values=values,
        has_labels=labels is not None,
    )
    if not latents.finite.any():
        raise CheckpointError(_damaged(path, "none of its codes is a number"))
    return latents


def read_metrics(folder: Path) -> Metrics:
    content = read_json(folder / "metrics.json")
    may_be_none = {"elbo", "kl", "active_units"}
    try:
        values: dict[str, Any] = {
            field.name: content.get(field.name) if field.name == "active_units" else content[field.name]
            for field in fields(Metrics)
        }
    except KeyError as error:
        raise CheckpointError(_damaged(folder / "metrics.json", f"{error.args[0]} is missing")) from error
    # NaN is not below the largest float either.
    numbers = [value for name, value in values.items() if not (value is None and name in may_be_none)]
    if not all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in numbers):
        raise CheckpointError(_damaged(folder / "metrics.json", "it holds something else than numbers"))
    return Metrics(**values)


def read_history(folder: Path) -> list[Record]:
    """The records so far; a line that is being written, or was cut by a crash, does not count."""
    return [line for line in _read_lines(folder / "history.jsonl") if isinstance(line, Record)]


def read_changes(folder: Path) -> list[Change]:
    """The settings that were changed while the run went on, in order."""
    return [line for line in _read_lines(folder / "history.jsonl") if isinstance(line, Change)]


def _read_lines(path: Path) -> list[Record | Change]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(_damaged(path, "it can't be read")) from error
    return [item for line in lines if (item := _to_item(line))]


@lru_cache(maxsize=50_000)  # whoever watches a run reads its history twice a second
def _to_item(line: str) -> Record | Change | None:
    """A line of history.jsonl; None if it is neither a record nor a change."""
    try:
        content = json.loads(line)
        if "setting" in content:
            change = Change(**content)
            return replace(change, step=int(change.step), epoch=float(change.epoch), value=float(change.value))
        return _to_record(content)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def _to_terms(content: dict[str, Any]) -> Terms:
    values: dict[str, Any] = {name: None if nats is None else float(nats) for name, nats in content.items()}
    return Terms(**values)


def _to_record(content: dict[str, Any]) -> Record:
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in ("train", "held_out"):
            values[key] = None if value is None else _to_terms(value)
        elif value is not None:
            values[key] = int(value) if key in ("step", "n_steps") else float(value)
    return Record(**values)
