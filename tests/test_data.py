"""Data: the sets that ship, against scikit-learn and geometry; those that are fetched, from a server right here."""

import gzip
import hashlib
import math
import os
import pickle
import resource
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets
import torch
import torchvision.datasets

from vae import data
from vae.config import ConfigError
from vae.data import DATASETS, SHAPE_FACTORS, DataError, is_present, known_factors, load, shape_factors, to_float


def as_bytes(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


@pytest.mark.parametrize("name", ["digits", "shapes"])
@pytest.mark.parametrize("split", data.SPLITS)
def test_a_set_is_as_its_info_says(name, split):
    info, loaded = DATASETS[name], load(name, split)
    n = info.n_train if split == "train" else info.n_held_out
    assert loaded.images.shape == (n, *info.image_shape)
    assert loaded.images.dtype == torch.uint8
    assert loaded.labels.shape == (n,)
    assert loaded.labels.dtype == torch.int64
    assert set(loaded.labels.tolist()) == set(range(len(info.class_names)))
    assert is_present(name)


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_the_split_is_the_same_at_every_call(name):
    first = load(name, "held_out")
    torch.manual_seed(2)  # of no account
    again = load(name, "held_out")
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)


def test_floats_go_from_0_to_1():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("name", ["", "MNIST", "../digits", None])
def test_an_unknown_set(name):
    with pytest.raises(ConfigError, match="choose one of digits, shapes, mnist, fashion-mnist, kmnist"):
        load(name, "train")


def test_an_unknown_split():
    with pytest.raises(ValueError, match="held_out"):
        load("digits", "test")


# digits


def test_digits_are_scikit_learns_each_in_one_split():
    train, held_out = (load("digits", split) for split in data.SPLITS)
    judge = sklearn.datasets.load_digits()
    expected = sorted(zip(judge.images.astype(int).reshape(-1, 64).tolist(), judge.target.tolist(), strict=True))
    images, labels = torch.cat([train.images, held_out.images]), torch.cat([train.labels, held_out.labels])
    greys = (images.double() * 16 / 255).round().int().flatten(1)  # 0 to 16, as they were
    assert sorted(zip(greys.tolist(), labels.tolist(), strict=True)) == expected
    assert not set(as_bytes(train.images)) & set(as_bytes(held_out.images))


# shapes


@pytest.fixture(scope="module")
def shapes() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All images (N, 28, 28) in [0, 1], and the factors that are said to have made them."""
    images = torch.cat([load("shapes", split).images for split in data.SPLITS])[:, 0] / 255
    factors = torch.cat([shape_factors(split) for split in data.SPLITS])
    return images.double().numpy(), dict(zip(SHAPE_FACTORS, factors.T.numpy(), strict=True))


def test_shapes_are_every_combination_once(shapes):
    images, factors = shapes
    combinations = set(zip(*(column.tolist() for column in factors.values()), strict=True))
    assert len(combinations) == len(images) == math.prod(SHAPE_FACTORS.values())
    assert len({image.tobytes() for image in images}) == len(images)


def test_x_and_y_are_where_the_shape_is(shapes):
    """Judge: SciPy's centre of mass, to a tenth of a pixel; from one place to the next it is 1.27 pixels."""
    images, factors = shapes
    centres = np.array([scipy.ndimage.center_of_mass(image) for image in images]) + 0.5  # (row, column)
    expected = 7 + 14 / 11 * np.stack([factors["y"], factors["x"]], axis=1)
    np.testing.assert_allclose(centres, expected, rtol=0, atol=0.1)


def test_scale_is_the_size_of_the_shape(shapes):
    """Judge: the areas of a square, an ellipse and an equilateral triangle; from one scale to the next they grow by a
    third and more. That they agree everywhere says, too, that no place cuts a shape off."""
    images, factors = shapes
    radius = 28 * (0.12 + 0.03 * factors["scale"])
    exact = np.stack([(1.6 * radius) ** 2, math.pi * 0.5 * radius**2, 3 * math.sqrt(3) * (0.55 * radius) ** 2])
    area = images.sum((1, 2))
    np.testing.assert_allclose(area, exact[factors["shape"], np.arange(len(area))], rtol=0.07)


def test_orientation_is_the_way_the_ellipse_lies(shapes):
    """Judge: the long axis by second moments."""
    images, factors = shapes
    chosen = factors["shape"] == data.SHAPE_NAMES.index("ellipse")
    rows, columns = np.mgrid[:28, :28]
    for image, orientation in zip(images[chosen], factors["orientation"][chosen], strict=True):
        weight = image / image.sum()
        down, right = rows - (weight * rows).sum(), columns - (weight * columns).sum()
        moments = {"xx": (weight * right**2).sum(), "yy": (weight * down**2).sum(), "xy": (weight * right * down).sum()}
        angle = 0.5 * math.atan2(2 * moments["xy"], moments["xx"] - moments["yy"])
        difference = math.degrees(angle) - 15 * orientation
        assert abs((difference + 90) % 180 - 90) < 2


# The sets that are fetched: torchvision's own code, asked to fetch from here


class Server(ThreadingHTTPServer):
    """Serves `files` by path. What it does instead, `way` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.way = "whole"
        self.may_go_on = threading.Event()
        self.gave_up_first = False  # of server and client
        self.requests: list[str] = []

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path.strip("/"))
        way = self.server.way
        if way == "silent":
            self.server.gave_up_first = not self.server.may_go_on.wait(30)
            return
        if content is None or way == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if way == "broken chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"400\r\nonly this")
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if way == "cut":
            content = content[: len(content) // 2]
        if way == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.wfile.write(content[:100])
        if way == "slow":
            self.wfile.flush()
            self.server.may_go_on.wait(30)
        self.wfile.write(content[100:])


def idx(array: np.ndarray) -> bytes:
    """An array of uint8 in the format of the MNIST files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


N_TRAIN, N_HELD_OUT = 20, 10


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (N_TRAIN, 28, 28)),
        "train-labels-idx1-ubyte": rng.integers(0, 10, N_TRAIN),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (N_HELD_OUT, 28, 28)),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, N_HELD_OUT),
    }


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The data folder, which isn't there yet."""
    monkeypatch.setenv("LATENTARIUM_DATA", str(tmp_path / "cache" / "data"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def server(arrays, root, monkeypatch) -> Iterator[Server]:  # noqa: ARG001  (nothing is fetched into the user's cache)
    """Has a small MNIST, from which torchvision fetches."""
    with Server() as server:
        server.files = {f"{name}.gz": gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        resources = [(name, hashlib.md5(content).hexdigest()) for name, content in server.files.items()]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server.url])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], n_train=N_TRAIN, n_held_out=N_HELD_OUT))
        yield server
        server.may_go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def fetched(server: Server, root: Path) -> Path:  # noqa: ARG001  (from which it is fetched)
    """The folder of a small MNIST's files."""
    load("mnist", "train")
    return root / "MNIST" / "raw"


def what_is_left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_a_sentence(error: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    for part in ("MNIST", *parts):
        assert part in message


def test_a_set_is_fetched_once(server, arrays, root):
    assert not is_present("mnist")
    train = load("mnist", "train")
    assert np.array_equal(train.images[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(train.labels, arrays["train-labels-idx1-ubyte"])
    assert is_present("mnist")
    assert what_is_left(root) == sorted(f"MNIST/raw/{name}" for name in arrays)  # no archive, no scratch folder
    server.requests.clear()
    held_out = load("mnist", "held_out")
    assert np.array_equal(held_out.images[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(held_out.labels, arrays["t10k-labels-idx1-ubyte"])
    assert not server.requests


def test_a_download_reports_its_progress(server):
    server.way = "slow"
    seen: list[tuple[int, int]] = []

    def progress(n_bytes: int, total: int) -> None:
        seen.append((n_bytes, total))
        server.may_go_on.set()

    load("mnist", "train", progress)
    assert seen
    assert all(0 <= n_bytes <= total == DATASETS["mnist"].download_bytes for n_bytes, total in seen)


def test_progress_that_fails_does_not_fail_the_download(server):
    server.way = "slow"

    def progress(*_: int) -> None:
        server.may_go_on.set()
        raise OSError("no space left")

    assert len(load("mnist", "train", progress).images) == N_TRAIN


def test_a_second_mirror_is_asked(server, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", server.url])
    assert len(load("mnist", "train").images) == N_TRAIN


@pytest.mark.parametrize("way", ["missing", "corrupt", "cut", "broken chunks", "silent"])
def test_a_server_that_fails(server, root, way, monkeypatch):
    monkeypatch.setattr(data, "DOWNLOAD_TIMEOUT", 0.3)
    server.way = way
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    assert_a_sentence(caught, "check the network", "'digits' or 'shapes'", str(root))
    assert what_is_left(root) == []
    assert list(root.iterdir()) == []
    assert not server.gave_up_first


@pytest.mark.usefixtures("server")
def test_no_network(root, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # where nobody listens
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    assert_a_sentence(caught, "check the network", str(root))
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("server")
def test_an_empty_folder_is_filled(root):
    (root / "MNIST" / "raw").mkdir(parents=True)
    assert not is_present("mnist")
    assert len(load("mnist", "train").images) == N_TRAIN


def test_a_missing_file_is_fetched_anew(fetched):
    (fetched / "t10k-labels-idx1-ubyte").unlink()
    assert not is_present("mnist")
    assert len(load("mnist", "held_out").images) == N_HELD_OUT


@pytest.mark.usefixtures("server")
def test_a_file_in_the_sets_place_is_replaced(root):
    root.mkdir(parents=True)
    (root / "MNIST").write_text("not a folder")
    assert len(load("mnist", "train").images) == N_TRAIN


@pytest.mark.usefixtures("server")
def test_a_file_in_the_data_folders_place(root):
    root.parent.mkdir()
    root.write_text("not a folder")
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    assert_a_sentence(caught, "can't be written", "LATENTARIUM_DATA", "'digits' or 'shapes'")
    assert root.read_text() == "not a folder"


@pytest.fixture
def read_only_root(server, monkeypatch) -> Iterator[Path]:  # noqa: ARG001  (which starts while writing is allowed)
    """A data folder that this process may read, and not write, though it may be root's."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("LATENTARIUM_DATA", folder)
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)
        os.chmod(folder, 0o755)


def test_a_read_only_folder(server, read_only_root):
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    assert_a_sentence(caught, "can't be written (Permission denied)", "LATENTARIUM_DATA")
    assert list(read_only_root.iterdir()) == []
    assert not server.requests


@pytest.mark.usefixtures("server")
def test_a_full_disk(root):
    """A file may not grow beyond 1,000 bytes: the system refuses the rest, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError) as caught:
            load("mnist", "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_a_sentence(caught, "could not be written", "File too large", "make room")
    assert list(root.iterdir()) == []


def floats(content: bytes) -> bytes:
    return content[:2] + b"\x0d" + content[3:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1]),
        ("train-images-idx3-ubyte", lambda _: b""),
        ("train-images-idx3-ubyte", lambda _: b"<html>Please log in</html>"),
        ("train-images-idx3-ubyte", lambda content: content[:3]),
        ("train-images-idx3-ubyte", lambda _: idx(np.zeros((N_TRAIN, 28, 27)))),
        ("train-images-idx3-ubyte", lambda _: idx(np.zeros((N_TRAIN - 1, 28, 28)))),
        ("train-images-idx3-ubyte", lambda _: struct.pack(">4I", 0x803, *[2**32 - 1] * 3)),
        ("train-images-idx3-ubyte", floats),
        ("train-labels-idx1-ubyte", floats),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros((N_TRAIN, 1)))),
        ("train-labels-idx1-ubyte", lambda _: idx(np.full(N_TRAIN, 10))),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros(N_TRAIN + 1))),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros(0))),
    ],
)
def test_damaged_files(fetched, name, damage):
    (fetched / name).write_bytes(damage((fetched / name).read_bytes()))
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    assert_a_sentence(caught, "damaged; delete that folder", str(fetched.parent))


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_files_beside_are_never_opened(fetched, arrays, tmp_path):
    """torchvision once kept MNIST as pickles, and still prefers those it finds."""
    (fetched.parent / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (fetched.parent / "processed" / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert np.array_equal(load("mnist", "train").images[:, 0], arrays["train-images-idx3-ubyte"])
    assert not (tmp_path / "sprung").exists()


def test_the_real_mnist():
    if not is_present("mnist"):
        pytest.skip("MNIST is not in LATENTARIUM_DATA, and tests fetch nothing")
    for split, n in (("train", 60_000), ("held_out", 10_000)):
        loaded = load("mnist", split)
        assert loaded.images.shape == (n, 1, 28, 28)
        assert set(loaded.labels.tolist()) == set(range(10))
    # The mean and deviation of the training images that most examples normalize with.
    images = to_float(load("mnist", "train").images).double()
    assert images.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert images.std().item() == pytest.approx(0.3081, abs=1e-4)


def test_the_known_factors_are_shapes_own_and_belong_to_its_images():
    assert known_factors("digits", "train") == {}
    factors, images = known_factors("shapes", "held_out"), load("shapes", "held_out").images
    assert list(factors) == ["scale", "orientation", "x", "y"]
    assert all(column.shape == (len(images),) for column in factors.values())
    # Judge: the ink's centre of gravity moves right with x and down with y, and its amount grows with the scale.
    ink = images.float().flatten(2).squeeze(1)
    columns, rows = torch.arange(28).repeat(28), torch.arange(28).repeat_interleave(28)
    for name, measured in {"x": ink @ columns.float() / ink.sum(1), "y": ink @ rows.float() / ink.sum(1)}.items():
        assert torch.corrcoef(torch.stack([factors[name], measured]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([factors["scale"], ink.sum(1)]))[0, 1] > 0.6
