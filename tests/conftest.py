"""What the tests share: a checkpoints folder of their own, a small model that a run has trained, a browser."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page

from benchmarks.app_server import chromium, find_browser
from tests.browser import WAIT
from vae import ModelConfig, TrainConfig, runs
from vae.worker import work

SMALL_MODEL = ModelConfig((1, 8, 8), widths=(32,), latent_dim=2)
SMALL_TRAINING = TrainConfig("digits", epochs=2, device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _same_torch():
    """Each test starts alike: what it draws is the same each time, and no run before it has set the threads."""
    torch.manual_seed(0)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def _no_spare_process(monkeypatch):
    """Pages in the tests' own process ready no process for work that never comes."""
    monkeypatch.setattr("vae.processes.warm_up", lambda: None)


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
        for _ in work("small"):
            pass
    return folder


@pytest.fixture
def small(_trained: Path, checkpoints: Path) -> Path:
    """The folder of `small`, a finished run of SMALL_MODEL: this test's own copy, to be damaged as it likes."""
    return Path(shutil.copytree(_trained, checkpoints / "small"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("no Chromium or Chrome is installed, and REQUIRE_BROWSER is set")
        pytest.skip("no Chromium or Chrome is installed")
    with chromium() as browser:
        yield browser


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a fresh visitor. At the end, nothing may have gone wrong on it, nor come from elsewhere."""
    contexts, problems, outside = [], [], []

    def open_page(**options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 1000}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: outside.append(request.url) if _is_outside(request.url) else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert outside == []  # nothing is fetched from anywhere but this server


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page()


def _is_outside(url: str) -> bool:
    return not url.startswith(("http://localhost", "ws://localhost", "data:", "blob:", "about:"))
