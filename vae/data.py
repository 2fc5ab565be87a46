"""Names -> tensors: uint8 images (N, C, H, W) and integer labels (N,), split into training and held-out images."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from platformdirs import user_cache_dir
from torch import Tensor

from vae.config import ConfigError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

SPLITS = ("train", "held_out")
DOWNLOAD_TIMEOUT = 30.0  # seconds that a server may keep silent
NETWORK_ERRORS = (URLError, ConnectionError, TimeoutError, ssl.SSLError)  # those OSErrors that are not the disk's
Progress = Callable[[int, int], None]  # called with bytes so far, bytes in all


class DataError(RuntimeError):
    """A data set that is missing, damaged or out of reach; the message says what to do."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded."""

    title: str
    about: str  # one sentence: what the images are, and their source
    image_shape: tuple[int, int, int]  # (C, H, W)
    n_train: int
    n_held_out: int
    class_names: tuple[str, ...]
    torchvision_class: str = ""  # of the sets that are downloaded on first use
    download_bytes: int = 0


@dataclass(frozen=True)
class Images:
    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64, indices into the data set's class_names


# What torchvision unpacks for MNIST and the sets that are laid out like it.
IDX_FILES = tuple(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
DIGIT_NAMES = tuple("0123456789")
SHAPE_NAMES = ("square", "ellipse", "triangle")
# The known factors of `shapes`, in the order of shape_factors' columns, and how many values each takes.
SHAPE_FACTORS = {"shape": 3, "scale": 4, "orientation": 6, "x": 12, "y": 12}

DATASETS = {
    "digits": DatasetInfo(
        "Digits (8 × 8)",
        "1,797 handwritten digits of 8 × 8 pixels (Alpaydin & Kaynak 1998, the UCI repository); inside scikit-learn.",
        (1, 8, 8), 1497, 300, DIGIT_NAMES,
    ),
    "shapes": DatasetInfo(
        "Shapes (28 × 28)",
        "Squares, ellipses and triangles drawn by the program: each combination of shape, scale, orientation, x and y.",
        (1, 28, 28), 8640, 1728, SHAPE_NAMES,
    ),
    "mnist": DatasetInfo(
        "MNIST (28 × 28)",
        "70,000 handwritten digits (LeCun, Cortes & Burges 1998; CC BY-SA 3.0); fetched on first use, 12 MB.",
        (1, 28, 28), 60000, 10000, DIGIT_NAMES, "MNIST", 11_594_722,
    ),
    "fashion-mnist": DatasetInfo(
        "Fashion-MNIST (28 × 28)",
        "70,000 pictures of clothes (Xiao, Rasul & Vollgraf 2017; MIT); fetched on first use, 31 MB.",
        (1, 28, 28), 60000, 10000,
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        "FashionMNIST", 30_878_645,
    ),
    "kmnist": DatasetInfo(
        "KMNIST (28 × 28)",
        "70,000 cursive Japanese characters (Clanuwat et al. 2018; CC BY-SA 4.0); fetched on first use, 21 MB.",
        (1, 28, 28), 60000, 10000, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        "KMNIST", 21_260_000,
    ),
}  # fmt: skip


def dataset_info(name: str) -> DatasetInfo:
    """Raises ConfigError if there is no such data set."""
    if name not in DATASETS:
        raise ConfigError("dataset", f"{name!r} is not a data set; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def data_root() -> Path:
    """Where downloaded data sets are kept: $LATENTARIUM_DATA, else a per-user cache folder."""
    return Path(os.path.expanduser(os.environ.get("LATENTARIUM_DATA") or user_cache_dir("latentarium")))


def binarize(images: Tensor, generator: torch.Generator) -> Tensor:
    """Black or white for each pixel, its grey value the probability of white: Bernoulli draws, as 0 and 255.

    images: uint8, any shape, on the generator's device. Returns the same shape and type.
    Source: Salakhutdinov & Murray 2008; `dynamic` draws anew at each visit of an image, `static` once and for all
    (from a seed of ours: the file that Larochelle made of MNIST is another draw).
    """
    threshold = torch.empty_like(images).random_(0, 255, generator=generator)  # 0 to 254: v / 255 of them are below v
    return (images > threshold).to(torch.uint8).mul_(255)


def corrupt(x: Tensor, corruption: str, level: float, generator: torch.Generator) -> Tensor:
    """Images for a model to restore: with noise N(0, level^2), or a share `level` of the pixels set to 0 (masking), or
    to 0 or 1 (salt and pepper).

    x: (B, C, H, W) in [0, 1]; stays there. corruption: one of config.CORRUPTIONS.
    Source: Vincent et al. 2010, Stacked denoising autoencoders, section 3.2.
    """
    if corruption == "none":
        return x
    if corruption == "gaussian":
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return (x + level * noise).clamp_(0, 1)
    chance = torch.rand(x.shape, generator=generator, device=x.device)
    if corruption == "masking":
        return torch.where(chance < level, 0.0, x)
    return torch.where(chance < level, (chance < level / 2).to(x.dtype), x)


def load_targets(name: str, split: str, targets: str, progress: Progress | None = None) -> Images:
    """What a model sees of a data set: the images, or what `binarize` draws from them, with the same draw at each call.

    targets: one of config.TARGETS. A training that is `dynamic` takes the grey training images instead, and draws
    from each batch anew.
    """
    loaded = load(name, split, progress)
    if targets == "grey":
        return loaded
    generator = torch.Generator().manual_seed(SPLITS.index(split))
    return Images(binarize(loaded.images, generator), loaded.labels)


def without_class(images: Images, label: int) -> Images:
    """Images of all classes but one. Raises ConfigError if none would be left out, or none left."""
    others = images.labels != label
    if others.all() or not others.any():
        raise ConfigError("left_out_class", f"{label} was given; the classes are 0 to {int(images.labels.max())}")
    return Images(images.images[others], images.labels[others])


def load(name: str, split: str, progress: Progress | None = None) -> Images:
    """The training or held-out images of a data set; downloads it first where it has to.

    split: one of SPLITS. Raises ConfigError for an unknown name and DataError where the data can't be had.
    """
    info = dataset_info(name)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} was given; use one of {SPLITS}")
    if name == "digits":
        return _load_digits(split)
    if name == "shapes":
        return _load_shapes(split)
    return _load_torchvision(info, split, progress)


def is_present(name: str) -> bool:
    """Whether a data set can be loaded without a download."""
    info = dataset_info(name)
    return not info.torchvision_class or not _missing_files(info, data_root())


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1]."""
    return images.float().div_(255)


def _split_indices(n: int, n_held_out: int, split: str) -> Tensor:
    """The same shuffled split at every call: the last n_held_out of a fixed permutation are held out."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[:-n_held_out] if split == "train" else order[-n_held_out:]


def _load_digits(split: str) -> Images:
    from sklearn.datasets import load_digits  # here: a second of import that other data sets need not wait for

    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # grey 0 to 16
    indices = _split_indices(len(images), DATASETS["digits"].n_held_out, split)
    return Images(images[indices], torch.from_numpy(digits.target).long()[indices])


def shape_factors(split: str) -> Tensor:
    """The factors that made each image of `shapes`: (N, 5) int64, columns as in SHAPE_FACTORS, from 0."""
    factors = torch.cartesian_prod(*(torch.arange(n) for n in SHAPE_FACTORS.values()))
    return factors[_split_indices(len(factors), DATASETS["shapes"].n_held_out, split)]


def known_factors(name: str, split: str) -> dict[str, Tensor]:
    """Numbers that are known of each image beside its class, by name: (N,) float32 each. Only `shapes` has any."""
    if name != "shapes":
        return {}
    columns = zip(SHAPE_FACTORS, shape_factors(split).float().T, strict=True)
    return {factor: column for factor, column in columns if factor != "shape"}


def _load_shapes(split: str) -> Images:
    factors = shape_factors(split)
    return Images(_draw_shapes(factors), factors[:, 0])


def _draw_shapes(factors: Tensor, side: int = 28) -> Tensor:
    """(N, 5) factors -> (N, 1, side, side) uint8, white on black with edges one pixel soft."""
    shape, scale, orientation, x, y = factors.float().view(-1, 5, 1, 1).unbind(1)
    radius = side * (0.12 + 0.03 * scale)
    # A quarter turn brings a square back to itself, so orientations stay within one.
    angle = orientation * (math.pi / 2) / SHAPE_FACTORS["orientation"]
    margin = side * 0.25
    step = (side - 2 * margin) / (SHAPE_FACTORS["x"] - 1)
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    right, down = columns - (margin + x * step), rows - (margin + y * step)
    u = right * angle.cos() + down * angle.sin()
    v = down * angle.cos() - right * angle.sin()
    # Signed distances to each shape's edge in pixels (the ellipse's to first order), negative inside.
    square = torch.maximum(u.abs(), v.abs()) - 0.8 * radius
    level = torch.sqrt((u / radius) ** 2 + (v / (0.5 * radius)) ** 2)
    slope = torch.sqrt((u / radius**2) ** 2 + (v / (0.5 * radius) ** 2) ** 2).clamp_min(1e-6) / level.clamp_min(1e-6)
    ellipse = (level - 1) / slope
    triangle = torch.maximum(v, (math.sqrt(3) * u.abs() - v) / 2) - 0.55 * radius
    distance = torch.where(shape == 0, square, torch.where(shape == 1, ellipse, triangle))
    return (0.5 - distance).clamp(0, 1).mul(255).round().to(torch.uint8).unsqueeze(1)


def _torchvision_class(info: DatasetInfo) -> type[MNIST]:
    import torchvision.datasets  # here: a second of import that only those who load these sets need

    return getattr(torchvision.datasets, info.torchvision_class)


def _missing_files(info: DatasetInfo, root: Path) -> list[str]:
    return [name for name in IDX_FILES if not os.path.isfile(root / info.torchvision_class / "raw" / name)]


def _load_torchvision(info: DatasetInfo, split: str, progress: Progress | None) -> Images:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    root = data_root()
    if _missing_files(info, root):
        _download(info, _torchvision_class(info), root, progress)
    folder = root / info.torchvision_class
    n, prefix = (info.n_train, "train") if split == "train" else (info.n_held_out, "t10k")
    try:
        # The files themselves: torchvision's classes would prefer pickled ones that lie beside them.
        images = read_image_file(str(folder / "raw" / f"{prefix}-images-idx3-ubyte"))
        labels = read_label_file(str(folder / "raw" / f"{prefix}-labels-idx1-ubyte"))
    except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(_damaged(info, folder)) from error
    if images.shape != (n, *info.image_shape[1:]) or labels.shape != (n,) or labels.max() >= len(info.class_names):
        raise DataError(_damaged(info, folder))
    return Images(images.unsqueeze(1), labels)


def _damaged(info: DatasetInfo, folder: Path) -> str:
    return f"The {info.title} files in {folder} are damaged; delete that folder and try again: it is fetched anew."


def _download(info: DatasetInfo, dataset_class: type[MNIST], root: Path, progress: Progress | None) -> None:
    """Fetches all files beside their place, checks them, and moves them in at one stroke.

    Raises DataError where the folder can't be written or nothing answers.
    """
    instead = "choose the data set 'digits' or 'shapes', which need no download"
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="download-", dir=root))
    except OSError as error:
        raise DataError(
            f"{info.title} is not in {root}, and that folder can't be written ({error.strerror}); "
            f"set LATENTARIUM_DATA to a folder that can, or {instead}."
        ) from error
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision sets none
    try:
        with _watch_size(scratch, info.download_bytes, progress):
            dataset_class(scratch, train=True, download=True)
        for archive in (scratch / dataset_class.__name__ / "raw").glob("*.gz"):
            archive.unlink()
        if _missing_files(info, root):  # still: another process may have been quicker
            folder = root / dataset_class.__name__
            if os.path.lexists(folder):  # an earlier copy that lacks files
                os.replace(folder, scratch / "incomplete")
            os.replace(scratch / dataset_class.__name__, folder)
    except (OSError, HTTPException, RuntimeError) as error:
        # torchvision says RuntimeError for a file that no mirror has, or whose checksum is wrong.
        if isinstance(error, OSError) and not isinstance(error, NETWORK_ERRORS):
            reason = f"could not be written to {root} ({error.strerror}); make room there"
        else:
            reason = f"is not in {root}, and could not be fetched; check the network and try again"
        raise DataError(f"{info.title} {reason}, or {instead}.") from error
    finally:
        socket.setdefaulttimeout(timeout_before)
        shutil.rmtree(scratch, ignore_errors=True)


class _watch_size:
    """While open, reports how many bytes of a download have arrived, three times a second.

    torchvision offers no callback; what it has written is there to be seen.
    """

    def __init__(self, folder: Path, total: int, progress: Progress | None):
        self.folder, self.total = folder, total
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, args=[progress], daemon=True) if progress else None

    def __enter__(self) -> None:
        if self.thread:
            self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        if self.thread:
            self.thread.join()

    def _watch(self, progress: Progress) -> None:
        while not self.done.wait(0.3):
            with contextlib.suppress(OSError):  # files come and go; where the disk is full, the download itself says so
                n_bytes = sum(path.stat().st_size for path in self.folder.rglob("*.gz"))
                progress(min(n_bytes, self.total), self.total)
