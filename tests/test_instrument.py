"""The instrument: a run as it forms and as it is played back, in a real browser."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_MODEL, SMALL_TRAINING
from PIL import Image
from playwright.sync_api import Page

from benchmarks.app_server import app_server
from pages.ui.instrument import IN_NATS, live_payload, replay_payload, term_titles
from tests.browser import picture_of, wait_for_another_picture
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import SHIPPED_NAMES, SHIPPED_ROOT, find, load_model, read_changes, read_config, read_history
from vae.config import CHOICES, DISTANCES
from vae.data import dataset_info
from vae.film import read_film, read_live
from vae.processes import start_worker
from vae.worker import work

ENDLESS = replace(SMALL_TRAINING, epochs=100_000)
INSTRUMENT = "document.querySelector('.instrument')?.instrument"


def unpack(payload: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """As payload.js does it."""
    head = 4 + int.from_bytes(payload[:4], "little")
    header, start, blocks = json.loads(payload[4:head]), head, {}
    for name, kind, length in header["blocks"]:
        dtype = np.dtype({"f4": "<f4", "f2": "<f2", "u1": "u1"}[kind])
        blocks[name] = np.frombuffer(payload, dtype, length, start)
        start += -(-length * dtype.itemsize // 4) * 4
    return header, blocks


def replay_of(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    folder = find(name)
    model, training = read_config(folder)
    classes = dataset_info(training.dataset).class_names
    records, changes = read_history(folder), read_changes(folder)
    decoder = load_model(folder).decoder
    return unpack(replay_payload(name, model, training, classes, records, changes, read_film(folder), decoder))


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_what_travels_is_the_film(name):
    """All shipped models have one."""
    header, blocks = replay_of(name)
    film, records = read_film(find(name)), read_history(find(name))
    n_frames, n_points, n_dims = len(film.frames), len(film.still.labels), header["n_dims"]
    assert n_frames > 30
    assert (header["mode"], len(header["frames"])) == ("replay", n_frames)
    terms = [
        getattr(which, term)
        for which in (records[-1].train, records[-1].held_out)
        for term in ("loss", "recon_loss", "kl")
    ]
    assert blocks["history"].reshape(-1, 7)[-1] == pytest.approx([records[-1].epoch, *terms])
    k = n_frames // 2
    frame = film.frames[k]
    points = blocks["points"].reshape(n_frames, n_points, 2)[k].astype(np.float32)
    assert np.array_equal(points, frame.points.numpy())
    assert np.array_equal(blocks["axes"].reshape(n_frames, 2, n_dims)[k], frame.axes.numpy())
    assert np.array_equal(blocks["kl"].reshape(n_frames, n_dims)[k], frame.kl_per_dim.numpy())
    start, end = header["frames"][k]["sheet"]
    assert blocks["sheets"][start:end].tobytes() == frame.sheet
    assert blocks["examples"].tobytes() == film.still.examples == b""
    epochs = [moment["epoch"] for moment in header["frames"]]
    assert epochs == sorted(epochs)
    assert (epochs[0], epochs[-1]) == (0, header["epochs"])


def test_a_run_without_anything_yet_travels_too():
    header, blocks = unpack(live_payload("new", SMALL_MODEL, SMALL_TRAINING, "0123456789", [], [], None))
    assert (header["frames"], list(blocks), blocks["history"].size) == ([], ["history"], 0)


def test_titles_say_what_is_summed():
    assert term_titles(SMALL_TRAINING)[0] == "Loss = reconstruction + β · KL"
    assert {name for name in CHOICES["objective"] if name not in IN_NATS} == {
        *DISTANCES, "l1", "l2", "contractive", "vq"
    }  # fmt: skip
    assert term_titles(replace(SMALL_TRAINING, free_bits=0.5))[0] == "Loss = reconstruction + β · Σ max(0.5, KL)"


# In the browser


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    return {"LATENTARIUM_CHECKPOINTS": str(tmp_path_factory.mktemp("checkpoints")), "LATENTARIUM_THREADS": "1"}


@pytest.fixture(scope="module")
def address(browser, environment) -> Iterator[str]:  # noqa: ARG001  (no server without a browser)
    with app_server(environment) as server:
        yield server.url


@pytest.fixture
def root(environment, monkeypatch) -> Path:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Path(environment["LATENTARIUM_CHECKPOINTS"])


def watch(page: Page, url: str, mode: str) -> None:
    page.goto(url)
    page.wait_for_function(f"{INSTRUMENT}?.data?.header.mode === '{mode}' && {INSTRUMENT}.data.header.frames.length")


@pytest.fixture
def live(page, address, root) -> Iterator[Page]:
    """A page that watches a run that goes on until the test ends."""
    name = f"live-{len(list(root.iterdir()))}"
    start_worker("work", name, runs.create(name, SMALL_MODEL, ENDLESS))
    watch(page, f"{address}/train?run={name}", "live")
    yield page
    runs.request_stop(name)
    while runs.status(name).is_active:
        page.wait_for_timeout(50)


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def test_live_curves_grow_in_place_and_a_zoom_stays(live):
    live.evaluate("document.querySelectorAll('.instrument .curve').forEach((path) => (path.isOld = true))")
    chart = live.locator(".charts svg").first
    chart.scroll_into_view_if_needed()
    live.wait_for_function(f"{INSTRUMENT}.curves.last > 8")
    box = chart.bounding_box()
    live.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 50)
    assert "training" in live.locator(".instrument .key").inner_text()
    assert "epoch" in live.locator(".instrument .readout").inner_text()
    live.mouse.down()
    live.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 50)
    live.mouse.up()
    zoom = live.evaluate(f"{INSTRUMENT}.curves.range")
    assert zoom[0] < zoom[1]
    last = live.evaluate(f"{INSTRUMENT}.curves.last")
    live.wait_for_function(f"{INSTRUMENT}.curves.last > {last}")
    assert live.evaluate(f"{INSTRUMENT}.curves.range") == zoom
    assert live.evaluate("[...document.querySelectorAll('.instrument .curve')].every((path) => path.isOld)")
    button(live, "Show all").click()
    assert live.evaluate(f"{INSTRUMENT}.curves.range") is None


def test_the_live_map_moves_and_decodes_with_the_weights_of_the_moment(live):
    canvas = live.get_by_label("Latent map", exact=True)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    live.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"])
    before, points = picture_of(live), live.evaluate(f"Array.from({INSTRUMENT}.points.slice(0, 40))")
    wait_for_another_picture(live, before)  # though the pointer rests
    assert live.evaluate(f"Array.from({INSTRUMENT}.points.slice(0, 40))") != points
    button(live, "Pause").click()
    live.get_by_text("Paused after step").wait_for()
    name = live.evaluate(f"{INSTRUMENT}.data.header.name")
    step = runs.status(name).records[-1].step
    live.wait_for_function(f"{INSTRUMENT}.data.header.frames[0].step >= {step}")
    # Outside judge: torch, with the weights that the run has just now.
    seen = read_live(find(name), SMALL_MODEL)
    z = [0.7, -0.4]
    shown = live.evaluate(f"Array.from({INSTRUMENT}.decoder.decode({z}))")
    expected = torch.sigmoid(seen.decoder(torch.tensor([z]))).flatten().numpy()
    assert np.abs(np.array(shown) - expected).max() < 1e-5


def test_a_live_run_is_held_stepped_and_bent(live):
    button(live, "Pause").click()
    live.get_by_text("Paused after step").wait_for()
    name = live.evaluate(f"{INSTRUMENT}.data.header.name")
    step = int(runs.status(name).message.split()[-1].rstrip(".").replace(",", ""))
    button(live, "One batch").click()
    live.get_by_text(f"Paused after step {step + 1:,}.").wait_for()
    live.wait_for_function(f"{INSTRUMENT}.data.header.frames[0].step === {step + 1}")
    beta = live.get_by_label("β from now on")
    beta.fill("3.5")
    beta.press("Enter")
    live.get_by_text("β 3.5", exact=True).first.wait_for()  # the mark on the curves
    rate = live.get_by_label("Rate from now on")
    rate.fill("0.0001")
    rate.press("Enter")
    live.get_by_text("learning rate 0.0001", exact=True).first.wait_for()
    assert {change.setting: change.value for change in runs.status(name).changes} == {
        "beta": 3.5, "learning_rate": 1e-4
    }  # fmt: skip
    button(live, "Go on").click()
    live.wait_for_function(f"{INSTRUMENT}.data.header.frames[0].step > {step + 20}")
    live.get_by_text("Slow motion").click()
    live.wait_for_timeout(1000)
    assert runs.read_control(find(name)).delay > 0
    button(live, "Stop and keep what was learnt").click()
    live.get_by_text("Stopped at epoch").wait_for()
    live.get_by_role("button", name="Resume to epoch 100,000").wait_for()


def test_a_decoder_too_large_for_the_browser_is_said(page, address):
    watch(page, f"{address}/train?run=mnist-conv-iwae", "replay")
    page.get_by_text("too large for the browser").wait_for()


def test_a_replay_moves_everything_together(page, address):
    watch(page, f"{address}/train?run=mnist-16d", "replay")
    slider = page.get_by_label("Epoch", exact=True)

    def seen() -> dict:
        return page.evaluate(f"""async () => {{
          const i = {INSTRUMENT};
          await new Promise((done) => setTimeout(done, 300)); // the sheet is decoded meanwhile
          const cursor = document.querySelector(".instrument .cursor");
          return {{
            moment: i.momentLine.textContent, cursor: Number(cursor.getAttribute("x1")),
            bars: i.bars.bars.map((bar) => bar.getAttribute("height")).join(),
            points: Array.from(i.map.plane.points.slice(0, 20)).join(),
            recon: i.canvases.recon.toDataURL(), sheet: i.canvases.sheet.toDataURL(),
            caption: document.querySelector(".instrument .panel figcaption").textContent,
          }};
        }}""")

    end = seen()
    assert end["moment"].startswith("epoch 20.0 of 20 · step 9,380")
    assert end["caption"] == "decoded at the crosshair"
    slider.focus()
    slider.press("Home")
    start = seen()
    assert start["moment"].startswith("epoch 0.0 of 20 · step 0")
    assert "decoding works at the last epoch" in start["caption"]
    assert all(start[key] != end[key] for key in end)
    # The sheet on screen is the film's.
    frame = read_film(SHIPPED_ROOT / "mnist-16d").frames[0]
    sheet = np.asarray(Image.open(io.BytesIO(frame.sheet)).convert("L"))
    from urllib.request import urlopen

    shown = np.asarray(Image.open(io.BytesIO(urlopen(start["sheet"]).read())).convert("L"))
    assert np.array_equal(shown, sheet[29:])

    chart = page.locator(".charts svg").nth(2)
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()  # a click in a chart moves the slider
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 40)
    middle = seen()
    assert float(slider.input_value()) > 5
    assert middle["cursor"] == pytest.approx(0.6 * box["width"], abs=3)
    button(page, "Play").click()
    page.wait_for_function(f"{INSTRUMENT}.position > {float(slider.input_value()) + 2}")
    button(page, "Pause").click()
    assert seen()["moment"] != middle["moment"]


def test_the_axes_of_a_replay_only_ever_grow(page, address):
    watch(page, f"{address}/train?run=mnist-16d", "replay")
    extents = page.evaluate(f"{INSTRUMENT}.extents")
    for before, after in itertools.pairwise(extents):
        assert after["left"] <= before["left"] <= -3.2
        assert after["top"] >= before["top"] >= 3.2


@pytest.mark.parametrize("width", [390, 320])
def test_a_narrow_screen_has_no_sideways_scroll(new_page, address, width):
    page = new_page(viewport={"width": width, "height": 800})
    watch(page, f"{address}/train?run=mnist-2d", "replay")
    assert page.evaluate("document.querySelector('.instrument').scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    "config", [ModelConfig((1, 8, 8), widths=(16,), latent_dim=1), ModelConfig((1, 8, 8), widths=(16,), latent_dim=60)]
)
def test_other_numbers_of_dimensions(page, address, root, config):  # noqa: ARG001
    name = f"dims-{config.latent_dim}"
    runs.create(name, config, TrainConfig("digits", epochs=1, device="cpu", threads=1))
    assert list(work(name))
    watch(page, f"{address}/train?run={name}", "replay")
    assert page.evaluate(f"{INSTRUMENT}.bars.bars.length") == config.latent_dim
    assert f"of {config.latent_dim} in use" in page.locator(".bars .note").inner_text()


def test_ticks_are_round(new_page):
    from pages.ui.instrument import _FOLDER

    page = new_page()
    page.add_script_tag(content=(_FOLDER / "curves.js").read_text(encoding="utf-8"))
    texts = page.evaluate(
        "[ticks(0, 1, 4), ticks(-0.31, 0.12, 4), ticks(97.2, 105.9, 4)].map((t) => t.map((x) => x.text))"
    )
    assert texts[0] == ["0.0", "0.5", "1.0"]
    assert texts[1] == ["−0.2", "0.0"]
    assert texts[2] == ["100", "105"]
