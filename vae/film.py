"""The film of a training: what a model looked like at many moments, small enough to be kept with it.

`film.bin` only grows, as history.jsonl does: a still, then frames. Each is its length, its CRC-32 and that many bytes
of safetensors; what a crash or a full disk cut off at the end does not count. While a run goes on, `live.safetensors`
holds its latest frame together with the decoder of that moment.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from vae.checkpoint import write_atomically
from vae.config import ModelConfig, TrainConfig, has_prior
from vae.data import Images, corrupt, to_float
from vae.evaluate import active_dims
from vae.latent import encode_images, project_axes, project_pca
from vae.model import VAE
from vae.networks import make_decoder
from vae.objectives import kl_per_dim
from vae.pictures import decode_pictures, grid, png_bytes, to_uint8
from vae.train import evaluating

FILM_FILE, LIVE_FILE = "film.bin", "live.safetensors"
N_POINTS = 2000  # held-out images whose codes are the film's map: the first ones
N_EXAMPLES = 10  # held-out images that are shown with their reconstructions
N_SAMPLES = 40  # decoded from the prior, the same eps in each frame
SHEET_COLUMNS = 10
EARLY_SECONDS = 15.0  # of training: a model changes most at first, and there are frames most often
MAX_FRAMES = 160  # then every second one goes
MAX_FILM_BYTES = 8_000_000
MAX_BLOCK_BYTES = 4_000_000  # of one frame; more is no film of ours


@dataclass(frozen=True)
class Still:
    """What does not change in a film."""

    labels: Tensor  # (N,) int64, classes of the points; N <= N_POINTS
    examples: bytes  # PNG: the images whose reconstructions the frames show, side by side; empty if left out


@dataclass(frozen=True)
class Frame:
    """A model at one moment of its training."""

    step: int
    epoch: float
    points: Tensor  # (N, 2) float32: mu of the film's images in a plane of latent space
    origin: Tensor  # (D,): the plane is z = origin + x * axes[0] + y * axes[1]
    axes: Tensor  # (2, D); of one dimension, the second is 0
    kl_per_dim: Tensor  # (D,) nats, mean over the film's images; the variance of mu where a code has no spread
    active: Tensor  # (D,) bool: whether mu varies from image to image, see evaluate.active_dims
    sheet: bytes  # PNG, SHEET_COLUMNS wide: the reconstructions of the examples, below them the samples


@dataclass(frozen=True)
class Film:
    still: Still
    frames: list[Frame]


# Making


def example_indices(labels: Tensor) -> Tensor:
    """The first image of each class, filled up with the first others: N_EXAMPLES of them where there are as many."""
    first_of_class = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    others = [i for i in range(min(len(labels), 2 * N_EXAMPLES)) if i not in first_of_class]
    return torch.tensor((first_of_class + others)[:N_EXAMPLES])


class Camera:
    """Takes frames of one model in training; the plane turns as little as it can from one to the next.

    config: of the training; its corruption is what the examples suffer, always in the same way.
    """

    def __init__(self, held_out: Images, config: TrainConfig | None = None):
        self.config = config or TrainConfig("digits")
        self.images, self.labels = held_out.images[:N_POINTS], held_out.labels[:N_POINTS]
        self.examples = example_indices(self.labels)
        clean, generator = to_float(self.images[self.examples]), torch.Generator().manual_seed(0)
        self.seen = corrupt(clean, self.config.corruption, self.config.corruption_level, generator)
        self.last_points: Tensor | None = None

    def still(self) -> Still:
        """What all frames share."""
        rows = [self.images[self.examples]]
        if self.config.corruption != "none":
            padding = rows[0].new_full((-len(rows[0]) % SHEET_COLUMNS, *rows[0].shape[1:]), 128)
            rows += [padding, to_uint8(self.seen)]
        return Still(self.labels, png_bytes(grid(torch.cat(rows), SHEET_COLUMNS), 1))

    def follow(self, frames: list[Frame]) -> None:
        """Goes on from the last of these."""
        if frames and len(frames[-1].points) == len(self.images):
            self.last_points = frames[-1].points

    @torch.inference_mode()
    def take(self, model: VAE, step: int, epoch: float) -> Frame | None:
        """A frame of the model as it is; None if its codes are no numbers. It draws from a generator of its own:
        training goes on as if unseen."""
        with evaluating(model):
            mu, logvar = encode_images(model, self.images, self.labels)
            if not mu.isfinite().all() or not (logvar < torch.inf).all():
                return None
            points, origin, axes = self._plane(mu)
            sheet = self._sheet(model, mu)
        carried = kl_per_dim(mu, logvar).mean(0) if model.config.latent == "gaussian" else mu.var(0)
        decoded = model.decoder_input(mu.to(next(model.parameters()).device)).cpu()
        active = active_dims(decoded, has_prior(model.config, self.config))
        return Frame(step, epoch, points, origin, axes, carried, active, sheet)

    def _sheet(self, model: VAE, mu: Tensor) -> bytes:
        """The reconstructions of the examples, and samples: of the prior; of a Gaussian with the codes' own mean and
        covariance where there is none; one class a column where the model is told it."""
        device = next(model.parameters()).device
        is_told = model.config.labels == "given"
        labels = self.labels[self.examples].to(device) if is_told else None
        codes, _ = model.encode(self.seen.to(device), labels)
        recon = decode_pictures(model, codes, labels)
        z = torch.randn(N_SAMPLES, mu.shape[1], generator=torch.Generator().manual_seed(0))
        if not has_prior(model.config, self.config):
            z = gaussian_like(mu, z)
        classes = torch.arange(N_SAMPLES, device=device) % SHEET_COLUMNS % model.config.n_classes if is_told else None
        padding = recon.new_full((-len(recon) % SHEET_COLUMNS, *recon.shape[1:]), 128)
        sheet = torch.cat([recon, padding, decode_pictures(model, z.to(device), classes)]).cpu()
        return png_bytes(grid(sheet, SHEET_COLUMNS), 1)

    def _plane(self, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points (N, 2), origin (D,), axes (2, D): latent space itself, else the two directions of most variance."""
        if mu.shape[1] <= 2:
            plane = project_axes(mu)
            return plane.points, plane.origin, plane.axes
        plane = project_pca(mu)
        points, axes = plane.points, plane.axes
        if self.last_points is not None:
            turn = procrustes(points, self.last_points)
            points, axes = points @ turn, turn.T @ axes
        self.last_points = points
        return points, plane.origin, axes


def gaussian_like(codes: Tensor, eps: Tensor) -> Tensor:
    """eps (N, D) ~ N(0, I) -> z (N, D) with the mean and the covariance of codes (M, D)."""
    spread = torch.cov(codes.T).reshape(codes.shape[1], -1)
    values, directions = torch.linalg.eigh(spread)
    return codes.mean(0) + (eps * values.clamp_min(0).sqrt()) @ directions.T


def procrustes(points: Tensor, target: Tensor) -> Tensor:
    """The rotation, perhaps with a reflection, R (2, 2) that brings points @ R nearest to target; both (N, 2).

    Source: Schönemann 1966, A generalized solution of the orthogonal Procrustes problem.
    """
    left, _, right = torch.linalg.svd(points.T @ target)
    return left @ right


# Writing


class FilmWriter:
    """Appends frames to a folder's film. Once it is too long or too large, every second frame goes, and `stride` says
    how much rarer than at first new ones should come."""

    def __init__(self, folder: Path, still: Still, last_step: int):
        """Goes on with a film that there is, without what comes after last_step: a run that goes on from there films
        it anew."""
        self.path, self.still, self.stride = folder / FILM_FILE, still, 1
        film = read_film(folder)
        self.frames = [frame for frame in film.frames if frame.step <= last_step] if film else []
        self._write_all()

    def add(self, frame: Frame) -> None:
        if self.frames and self.frames[-1].step >= frame.step:
            return  # that moment is on film already
        self.frames.append(frame)
        block = _pack(_frame_tensors(frame))
        if len(self.frames) > MAX_FRAMES or self.size + len(block) > MAX_FILM_BYTES:
            self.frames = [*self.frames[:-1:2], frame]
            self.stride *= 2
            self._write_all()
            return
        with open(self.path, "ab") as file:
            file.write(block)
        self.size += len(block)

    def _write_all(self) -> None:
        content = b"".join(map(_pack, [_still_tensors(self.still), *map(_frame_tensors, self.frames)]))
        write_atomically({self.path: content})
        self.size = len(content)


def leave_out_examples(folder: Path) -> None:
    """Rewrites a film without the images of the data set, for publishing it where these may not go along."""
    film = read_film(folder)
    if film:
        FilmWriter(folder, replace(film.still, examples=b""), film.frames[-1].step)


def write_live(folder: Path, still: Still, frame: Frame, decoder: nn.Sequential) -> None:
    """Replaces what whoever watches sees. Not synced to the disk: after a crash of the system nobody misses it."""
    weights = {
        f"decoder.{name}": value.detach().cpu().half().contiguous() for name, value in decoder.state_dict().items()
    }
    scratch = folder / f".{LIVE_FILE}.tmp"
    try:
        scratch.write_bytes(tensors_to_bytes({**_still_tensors(still), **_frame_tensors(frame), **weights}))
        os.replace(scratch, folder / LIVE_FILE)
    except BaseException:  # a full disk
        scratch.unlink(missing_ok=True)
        raise


def _pack(tensors: dict[str, Tensor]) -> bytes:
    block = tensors_to_bytes(tensors)
    return len(block).to_bytes(4, "little") + zlib.crc32(block).to_bytes(4, "little") + block


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(bytearray(content), dtype=np.uint8))


def _still_tensors(still: Still) -> dict[str, Tensor]:
    return {"labels": still.labels.to(torch.uint8), "examples": _bytes_tensor(still.examples)}


def _frame_tensors(frame: Frame) -> dict[str, Tensor]:
    return {
        "moment": torch.tensor([frame.step, frame.epoch], dtype=torch.float64),
        "points": frame.points.clamp(-65504, 65504).half().contiguous(),  # the largest of float16
        "origin": frame.origin.float().contiguous(),
        "axes": frame.axes.float().contiguous(),
        "kl_per_dim": frame.kl_per_dim.float().contiguous(),
        "active": frame.active.to(torch.uint8),
        "sheet": _bytes_tensor(frame.sheet),
    }


# Reading


def read_film(folder: Path) -> Film | None:
    """The film so far; None where there is none. What is cut short, damaged or of another kind ends it."""
    try:
        content = (folder / FILM_FILE).read_bytes()
    except OSError:
        return None
    still, frames, place = None, [], 0
    while block := _unpack(content, place):
        try:
            tensors = load_tensors(block)
            if still is None:
                still = _to_still(tensors)
            else:
                frames.append(_to_frame(tensors, len(still.labels)))
        except (SafetensorError, KeyError, ValueError, RuntimeError):
            break
        place += 8 + len(block)
    return Film(still, frames) if still else None


@dataclass(frozen=True)
class Live:
    """What a run that goes on looks like now."""

    still: Still
    frame: Frame
    decoder: nn.Sequential  # of the frame's moment, its weights rounded to float16


def read_live(folder: Path, config: ModelConfig) -> Live | None:
    """None where nothing is, or what is there is not a live view of such a model."""
    try:
        tensors = load_tensors((folder / LIVE_FILE).read_bytes())
        still = _to_still(tensors)
        frame = _to_frame(tensors, len(still.labels))
        prefix = "decoder."
        weights = {name.removeprefix(prefix): value.float() for name, value in tensors.items() if prefix in name}
        with torch.device("meta"):
            decoder = make_decoder(config)
        decoder.load_state_dict(weights, strict=True, assign=True)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    return Live(still, frame, decoder.requires_grad_(False))


def _unpack(content: bytes, place: int) -> bytes | None:
    """The block at a place, if it is there and whole."""
    length = int.from_bytes(content[place : place + 4], "little")
    block = content[place + 8 : place + 8 + length]
    is_whole = 0 < length <= MAX_BLOCK_BYTES and len(block) == length
    return block if is_whole and zlib.crc32(block).to_bytes(4, "little") == content[place + 4 : place + 8] else None


def _to_still(tensors: dict[str, Tensor]) -> Still:
    return Still(tensors["labels"].long(), tensors["examples"].numpy().tobytes())


def _to_frame(tensors: dict[str, Tensor], n_points: int) -> Frame:
    """Raises ValueError or KeyError if these are not a frame's."""
    step, epoch = tensors["moment"].tolist()
    names = ("points", "origin", "axes", "kl_per_dim")
    points, origin, axes, kl = (tensors[name].float() for name in names)
    (n_dims,) = origin.shape
    if points.shape != (n_points, 2) or axes.shape != (2, n_dims) or kl.shape != (n_dims,):
        raise ValueError("the frame's tensors do not fit each other")
    active = tensors["active"].bool()
    return Frame(int(step), epoch, points, origin, axes, kl, active, tensors["sheet"].numpy().tobytes())
