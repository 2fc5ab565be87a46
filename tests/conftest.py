"""What the tests share: a checkpoints folder of their own, and a small model that a run has trained."""

import shutil
from pathlib import Path

import pytest
import torch

from vae import ModelConfig, TrainConfig, runs

SMALL_MODEL = ModelConfig((1, 8, 8), widths=(32,), latent_dim=2)
SMALL_TRAINING = TrainConfig("digits", epochs=2, device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _same_torch():
    """Each test starts alike: what it draws is the same each time, and no run before it has set the threads."""
    torch.manual_seed(0)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where this test's checkpoints are written."""
    root = tmp_path / "checkpoints"
    root.mkdir()
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(root))
    return root


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(root))
        folder = runs.create("small", SMALL_MODEL, SMALL_TRAINING)
        for _ in runs.work("small"):
            pass
    return folder


@pytest.fixture
def small(_trained: Path, checkpoints: Path) -> Path:
    """The folder of `small`, a finished run of SMALL_MODEL: this test's own copy, to be damaged as it likes."""
    return Path(shutil.copytree(_trained, checkpoints / "small"))
