"""The latent map under every hand: each gesture in Chromium, on a server of its own; judged by the core."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.app_server import app_server
from tests.browser import WAIT, picture_of, shown_z, wait_for_another_picture, wait_for_map
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import SHIPPED_ROOT, find, load_latents, load_model, save_latents
from vae.latent import Latents, project_pca
from vae.worker import work

LARGE = ModelConfig((1, 8, 8), widths=(2000, 600), latent_dim=3)  # a decoder of 1.2 million weights
LINE = ModelConfig((1, 8, 8), widths=(32,), latent_dim=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory, browser) -> Path:  # noqa: ARG001  (no models without a browser)
    """A checkpoints folder with models that the shipped ones are not."""
    root = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(root))
        patch.setenv("LATENTARIUM_DATA", str(root / "no-data"))
        for name, config in {"large": LARGE, "line": LINE, "plane": replace(LINE, latent_dim=2)}.items():
            runs.create(name, config, TrainConfig("digits", epochs=1, device="cpu", threads=1))
            assert list(work(name))
        latents = load_latents(root / "plane")
        mu = latents.mu.clone()
        mu[3], mu[5, 0] = torch.nan, torch.inf
        odd = {
            "odd": replace(latents, mu=mu),
            "one-point": Latents(latents.mu[:1], latents.logvar[:1], latents.labels[:1]),
            "one-class": replace(latents, labels=torch.full_like(latents.labels, 4)),
            "no-labels": replace(latents, has_labels=False),
        }
        for name, changed in odd.items():
            shutil.copytree(root / "plane", root / name)
            save_latents(root / name, changed, half=False)
        shutil.copytree(SHIPPED_ROOT / "mnist-16d", root / "no-tsne")
        save_latents(root / "no-tsne", replace(load_latents(root / "no-tsne"), embeddings={}), half=True)
    return root


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    environment = {"LATENTARIUM_CHECKPOINTS": str(models), "LATENTARIUM_DATA": str(models / "no-data")}
    with app_server(environment) as server:
        yield f"{server.url}/latent_map"


def open_map(page: Page, url: str) -> dict[str, float]:
    """Opens a map; returns its box on the page."""
    page.goto(url)
    return wait_for_map(page).bounding_box()


def state(page: Page, expression: str) -> object:
    """A JavaScript expression of `map`."""
    return page.locator(".latent-map").evaluate(f"(root) => {{ const map = root.map; return {expression}; }}")


def click(page: Page, box: dict[str, float], x: float, y: float) -> None:
    """x, y: shares of the map's width and height, from its upper left corner."""
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def hold(page: Page, box: dict[str, float], *places: tuple[float, float]) -> None:
    """A drag that has not ended: the button is still down."""
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=4)


def drag(page: Page, box: dict[str, float], *places: tuple[float, float]) -> None:
    hold(page, box, *places)
    page.mouse.up()


def wait_until(page: Page, expression: str) -> None:
    """Until a JavaScript expression of `map` is true; for a moment, a new map stands beside the one that goes."""
    find = "const [root, other] = document.querySelectorAll('.latent-map'), map = !other && root?.map"
    page.wait_for_function(f"(() => {{ {find}; return map && {expression}; }})()")


def layer(page: Page, name: str):
    return page.get_by_role("checkbox", name=name, exact=True)


def tiles_are_made(name: str) -> str:
    return f"map.tiles('{name}').missing(map.view).length === 0"


# Pins


def test_two_pins_stand_side_by_side_with_their_distance(page, address):
    box = open_map(page, f"{address}?model=mnist-16d")
    click(page, box, 0.2, 0.3)
    first = shown_z(page)
    page.get_by_text("Click another spot").wait_for()
    click(page, box, 0.7, 0.6)
    second = shown_z(page)
    assert (picture_of(page, "Pin B, decoded") == picture_of(page)).all()
    assert (picture_of(page, "Pin A, decoded") != picture_of(page)).any()
    text = page.locator(".distance").inner_text()
    assert float(text.split("=")[1]) == pytest.approx(np.linalg.norm(np.subtract(first, second)), abs=0.05)


def test_a_third_click_keeps_the_two_latest(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    for x in (0.2, 0.5, 0.8):
        click(page, box, x, 0.5)
    first, second = state(page, "map.pins.map((pin) => (pin.x - map.view.x) * map.view.scale / map.view.width)")
    assert [first, second] == pytest.approx([0, 0.3], abs=0.01)


def test_a_pin_can_be_dragged_and_its_picture_follows(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    click(page, box, 0.3, 0.3)
    before = picture_of(page, "Pin A, decoded")
    drag(page, box, (0.3, 0.3), (0.7, 0.7))
    assert len(state(page, "map.pins")) == 1
    assert (picture_of(page, "Pin A, decoded") != before).any()
    assert not state(page, "map.view.isOwn")  # the view stayed


def test_escape_and_the_button_clear_the_pins(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    for clear in (lambda: page.keyboard.press("Escape"), page.get_by_role("button", name="Clear pins").click):
        click(page, box, 0.3, 0.3)
        page.get_by_role("region", name="Pinned spots").wait_for()
        clear()
        page.get_by_role("region", name="Pinned spots").wait_for(state="hidden")
        assert state(page, "map.pins") == []


def test_escape_puts_a_dragged_pin_back(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    click(page, box, 0.3, 0.3)
    pins = "map.pins.map(({ x, y }) => [x, y])"
    before = state(page, pins)
    hold(page, box, (0.3, 0.3), (0.5, 0.5))
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.up()
    assert state(page, pins) == before


def test_escape_ends_one_thing_at_a_time(page, address):
    box = open_map(page, f"{address}?model=digits-2d")
    click(page, box, 0.3, 0.3)
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_role("button", name="Lasso", exact=True).click()
    what = "[map.outline.length, map.tool, map.pins.length]"
    hold(page, box, (0.2, 0.2), (0.5, 0.2), (0.5, 0.5))
    assert state(page, "map.outline.length") > 4
    for after in ([4, None, 1], [0, None, 1], [0, None, 0]):
        page.keyboard.press("Escape")
        assert state(page, what) == after
    page.mouse.up()
    assert state(page, what) == [0, None, 0]


# Layers


def test_pictures_refine_as_one_zooms(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    layer(page, "Pictures").check()
    wait_until(page, tiles_are_made("pictures"))
    level = state(page, "map.tiles('pictures').levelFor(map.view)")
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.wheel(0, -1000)
    wait_until(page, f"map.tiles('pictures').levelFor(map.view) >= {level} + 2")
    wait_until(page, tiles_are_made("pictures"))
    # Judge: torch's picture at the middle of the tile that holds the middle of the map.
    tile, bytes_ = state(
        page,
        """(() => {
          const layer = map.tiles('pictures'), level = layer.levelFor(map.view);
          const tile = layer.tilesInView(map.view, level)[0];
          const [x, y] = layer.corner(layer.slots.get(key(tile)));
          const { data } = layer.context.getImageData(x + 1, y + 1, 28, 28);
          return [tile, Array.from(data.filter((_, i) => i % 4 === 0))];
        })()""".replace("key(tile)", "`${tile.level} ${tile.i} ${tile.j}`"),
    )
    side = 2.0 ** -tile["level"]
    z = torch.tensor([[(tile["i"] + 0.5) * side, (tile["j"] + 0.5) * side]])
    expected = 255 * load_model(SHIPPED_ROOT / "mnist-2d").recon(z).flatten().numpy()
    assert np.abs(np.array(bytes_) - expected).max() <= 1


def test_pictures_follow_the_pointer_while_tiles_are_being_made(page, address):
    box = open_map(page, f"{address}?model=mnist-16d")
    before = picture_of(page)
    layer(page, "Pictures").check()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    wait_for_another_picture(page, before)
    wait_until(page, tiles_are_made("pictures"))


@pytest.mark.parametrize("model", ["mnist-2d", "mnist-16d", "mnist-16d&projection=t-SNE"])
def test_class_regions_are_said_too(page, address, model):
    box = open_map(page, f"{address}?model={model}")
    layer(page, "Class regions").check()
    wait_until(page, tiles_are_made("regions"))
    x, y = state(page, "map.view.toScreen(map.plane.spotOf(map.plane.order[5]))")
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.locator(".hover", has_text=re.compile(r"\d+ of the 15 nearest are \d")).wait_for()


@pytest.mark.parametrize("name", ["Points", "Density", "Prior"])
def test_a_layer_shows_and_hides(page, address, name):
    open_map(page, f"{address}?model=mnist-2d")

    def look() -> np.ndarray:
        page.wait_for_timeout(500)
        return np.asarray(Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("L"), float)

    before, was_on = look(), layer(page, name).is_checked()
    layer(page, name).set_checked(not was_on)
    assert np.abs(look() - before).mean() > 0.1
    layer(page, name).set_checked(was_on)
    assert np.abs(look() - before).mean() < 0.01


def test_a_tsne_offers_no_layer_that_would_mean_nothing(page, address):
    open_map(page, f"{address}?model=mnist-16d&projection=t-SNE")
    names = (
        page.get_by_role("group", name="Layers")
        .get_by_role("checkbox")
        .evaluate_all("(boxes) => boxes.map((box) => box.value)")
    )
    assert names == ["points", "regions"]


@pytest.mark.parametrize(("value", "title"), [("kl", "KL"), ("recon_loss", "reconstruction error"), ("z3", "z₃")])
def test_points_take_the_colour_of_a_number(page, address, value, title):
    open_map(page, f"{address}?model=mnist-16d")
    before = page.locator(".stage").screenshot()
    page.get_by_label("Colour").select_option(value)
    page.locator(".scale", has_text=title).wait_for()
    page.wait_for_timeout(300)
    assert page.locator(".stage").screenshot() != before
    low, high = (
        float(n.replace(",", ""))
        for n in re.findall(r"[≤≥] (-?[\d.,]+)", page.locator(".scale").inner_text().replace("−", "-"))
    )
    latents = load_latents(SHIPPED_ROOT / "mnist-16d")
    kl = 0.5 * (latents.mu.square() + latents.logvar.exp() - 1 - latents.logvar).sum(1)
    numbers = {"kl": kl, "recon_loss": latents.values.get("recon_loss"), "z3": latents.mu[:, 2]}[value]
    assert [low, high] == pytest.approx(np.percentile(numbers, [1, 99]).tolist(), rel=0.02)


# The posterior


def test_a_picked_image_shows_its_posterior_and_epsilon_moves_z(new_page, address):
    page = new_page(viewport={"width": 1300, "height": 1900})  # all of it in view
    box = open_map(page, f"{address}?model=mnist-2d")
    layer(page, "Posterior").check()
    click(page, box, 0.35, 0.4)
    panel = page.get_by_role("region", name="Posterior of the pinned image")
    panel.wait_for()
    index = state(page, "map.posterior.index")
    latents, model = load_latents(SHIPPED_ROOT / "mnist-2d"), load_model(SHIPPED_ROOT / "mnist-2d")
    assert f"image {index:,}" in panel.inner_text()

    def table() -> np.ndarray:
        text = panel.locator("tbody").inner_text().replace("−", "-")
        return np.array([[float(cell) for cell in row.split("\t")[1:]] for row in text.split("\n")])

    mu, sigma, eps, z = table().T
    np.testing.assert_allclose(mu, latents.mu[index], atol=0.006)
    np.testing.assert_allclose(sigma, torch.exp(0.5 * latents.logvar[index]), atol=0.006)
    assert np.abs(eps).max() < 5
    mean = 255 * model.recon(latents.mu[index : index + 1])[0, 0].numpy()
    assert np.abs(picture_of(page, "Decoded mean of the posterior") - mean).max() <= 1

    page.get_by_role("button", name="Zoom to it").click()
    ring = page.get_by_role("button", name="Sample of the posterior")
    before = picture_of(page, "Decoded sample of the posterior")
    start = ring.bounding_box()
    page.mouse.move(start["x"] + 11, start["y"] + 11)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
    page.mouse.up()
    there = state(page, "map.view.toData(0.6 * map.view.width, 0.7 * map.view.height)")
    mu, sigma, eps, z = table().T
    np.testing.assert_allclose(z, [there["x"], there["y"]], atol=0.01)
    full_sigma = torch.exp(0.5 * latents.logvar[index]).numpy()
    np.testing.assert_allclose(z, latents.mu[index].numpy() + full_sigma * eps, atol=0.01)
    sample = picture_of(page, "Decoded sample of the posterior")
    assert (sample != before).any()
    exact = torch.tensor([state(page, "map.posterior.z()")])
    assert np.abs(sample - 255 * model.recon(exact)[0, 0].numpy()).max() <= 1


def test_a_new_sample_and_the_keyboard_move_epsilon(page, address):
    box = open_map(page, f"{address}?model=mnist-16d")
    layer(page, "Posterior").check()
    click(page, box, 0.4, 0.4)
    # The pin stands for the image, not for the z of the plane below it: so the image is its own nearest neighbour.
    index = state(page, "map.posterior.index")
    page.get_by_alt_text(re.compile(rf"Neighbour 1: image {index:,}: class \d, at 0.00")).wait_for()
    first = state(page, "Array.from(map.posterior.eps)")
    page.get_by_role("button", name="New sample").click()
    second = state(page, "Array.from(map.posterior.eps)")
    assert first != second
    before = state(page, "map.posterior.spot()")
    page.get_by_role("button", name="Sample of the posterior").focus()
    page.keyboard.press("ArrowRight")
    after, scale = state(page, "map.posterior.spot()"), state(page, "map.view.scale")
    assert after["x"] - before["x"] == pytest.approx(16 / scale, rel=0.01)
    assert after["y"] == pytest.approx(before["y"], abs=1e-4)


def test_the_posterior_moves_pins_to_images_and_lets_them_go(page, address):
    """The server hears of it each time: the neighbours are those of the pin, and the link gives the same."""
    box = open_map(page, f"{address}?model=mnist-2d")
    click(page, box, 0.1, 0.1)
    first = re.compile(r"Neighbour 1: .* at (\d\.\d\d)")
    assert not page.get_by_alt_text(first).get_attribute("alt").endswith("at 0.00")
    layer(page, "Posterior").check()
    index = state(page, "map.pins[0].index")
    page.get_by_alt_text(re.compile(rf"Neighbour 1: image {index:,}: class \d, at 0.00")).wait_for()
    layer(page, "Posterior").uncheck()
    assert state(page, "map.pins[0].index") is None
    page.wait_for_function("!location.search.includes('posterior')")
    page.reload()
    wait_for_map(page)
    assert state(page, "map.pins[0].index") is None


def test_a_pin_can_be_dragged_from_under_its_ring_and_the_last_touched_counts(page, address):
    box = open_map(page, f"{address}?model=mnist-2d&layers=points,posterior")
    click(page, box, 0.3, 0.4)
    click(page, box, 0.6, 0.6)
    panel = page.get_by_role("region", name="Posterior of the pinned image")
    panel.get_by_text("Pin B").wait_for()
    panel.get_by_text("Zoom to it, then drag the ring.").wait_for()
    images = "map.pins.map(({ index }) => index)"
    before = state(page, images)
    size = np.array([box["width"], box["height"]])
    for k in (1, 0):
        drag(page, box, np.array(state(page, f"map.view.toScreen(map.pins[{k}])")) / size, (0.4 + 0.2 * k, 0.5))
    after = state(page, images)
    assert after[0] != before[0]
    assert after[1] != before[1]
    panel.get_by_text("Pin A").wait_for()


def test_neighbours_are_the_crosshairs_where_nothing_is_pinned(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    page.get_by_text("whose codes lie nearest to the z at the crosshair").wait_for()
    click(page, box, 0.3, 0.3)
    page.get_by_text("whose codes lie nearest to the pinned z").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("whose codes lie nearest to the z at the crosshair").wait_for()


# Selection


@pytest.mark.parametrize("how", ["Box", "Shift", "Lasso", "In view"])
def test_a_selection_shows_its_images_classes_and_mean(page, address, how):
    box = open_map(page, f"{address}?model=mnist-2d")
    if how == "In view":
        page.get_by_role("button", name="Zoom in").click()
    if how != "Shift":
        page.get_by_role("button", name=how, exact=True).click()
    else:
        page.keyboard.down("Shift")
    if how == "Lasso":
        drag(page, box, (0.2, 0.2), (0.5, 0.2), (0.6, 0.5), (0.3, 0.6))
    elif how != "In view":
        drag(page, box, (0.2, 0.2), (0.5, 0.6))
    page.keyboard.up("Shift")
    page.get_by_alt_text("Selected images").wait_for()
    page.get_by_alt_text("Mean picture").wait_for()
    page.get_by_test_id("stPlotlyChart").wait_for()
    outline = np.array(state(page, "map.outline.map(({ x, y }) => [x, y])"))
    n = int(
        re.search(r"Selection: ([\d,]+) of 10,000", page.get_by_text("of 10,000 images").inner_text())[1].replace(
            ",", ""
        )
    )
    points = load_latents(SHIPPED_ROOT / "mnist-2d").mu.numpy()
    if how == "Lasso":
        # Judge: how often the outline winds about each point.
        corners = outline[None] - points[:, None]
        angles = np.arctan2(corners[..., 1], corners[..., 0])
        turns = (np.diff(np.concatenate([angles, angles[:, :1]], 1), axis=1) + np.pi) % (2 * np.pi) - np.pi
        expected = int((np.abs(turns.sum(1)) > np.pi).sum())
    else:
        expected = int(((points > outline.min(0)) & (points < outline.max(0))).all(1).sum())
    assert abs(n - expected) <= 1  # float32 and float64 at the edge
    assert 100 < n < 10_000


def test_a_selection_leaves_out_hidden_classes_saves_csv_and_is_cleared(page, address):
    open_map(page, f"{address}?model=digits-2d")
    page.get_by_role("group", name="Classes on the map").get_by_role("button", name="3", exact=True).click()
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    with open(download.value.path(), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    latents = load_latents(SHIPPED_ROOT / "digits-2d")
    assert 100 < len(rows) <= 300
    assert {row["class"] for row in rows} == set("012456789")
    for row in rows[:20]:
        index = int(row["image"])
        assert row["split"] == "held out"
        assert row["class"] == str(int(latents.labels[index]))
        assert float(row["mu_1"]) == pytest.approx(float(latents.mu[index, 0]), rel=1e-4)
        assert float(row["sigma_2"]) == pytest.approx(float(torch.exp(0.5 * latents.logvar[index, 1])), rel=1e-4)
        assert float(row["recon_loss"]) == pytest.approx(float(latents.values["recon_loss"][index]), rel=1e-4)
    page.get_by_label("Latent map", exact=True).focus()
    page.keyboard.press("Escape")
    page.get_by_alt_text("Selected images").wait_for(state="detached")
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for()
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for(state="detached")
    expect(page.get_by_role("button", name="Clear", exact=True)).to_be_hidden()


def test_an_empty_selection_says_so(page, address):
    box = open_map(page, f"{address}?model=digits-2d")
    page.get_by_role("button", name="Box", exact=True).click()
    drag(page, box, (0.005, 0.005), (0.02, 0.02))
    page.get_by_text("No image lies in this outline").wait_for()


def hide_all(page: Page) -> None:
    for button in page.get_by_role("group", name="Classes on the map").get_by_role("button").all():
        button.click()


def test_a_selection_is_the_same_on_both_sides_when_one_comes_back(new_page, address):
    page = new_page(viewport={"width": 1300, "height": 1900})  # all of it in view
    open_map(page, f"{address}?model=digits-2d")
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for()
    page.get_by_role("group", name="Classes on the map").get_by_role("button", name="3", exact=True).click()
    n = (load_latents(SHIPPED_ROOT / "digits-2d").labels != 3).sum()
    in_view = re.compile(rf"Selection: ({n}|{n - 1}|{n - 2}|{n - 3}) of 300")
    page.get_by_text(in_view).wait_for()  # the legend counts for what is selected, too
    for model in ("mnist-2d", "digits-2d"):
        page.get_by_test_id("stSelectbox").filter(has_text="Model").click()
        page.get_by_role("option", name=model, exact=True).click()
        wait_until(page, f"map.header.name === '{model}'")
    page.get_by_text(in_view).wait_for()
    assert state(page, "[map.outline.length, [...map.plane.hidden]]") == [4, [3]]
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for(state="detached")


# Projections


def test_where_all_classes_are_hidden_nothing_is_pinned(page, address):
    box = open_map(page, f"{address}?model=mnist-16d&projection=t-SNE")
    click(page, box, 0.4, 0.4)
    hide_all(page)
    page.get_by_text("so there is no image whose neighbours to show").wait_for()
    assert state(page, "map.pins") == []
    click(page, box, 0.5, 0.5)
    page.locator(".notice", has_text="All classes are hidden").wait_for()
    assert state(page, "map.pins") == []
    assert page.get_by_alt_text("Decoded image").get_attribute("src") is None


def test_two_dimensions_decode_with_the_others_held(page, address):
    box = open_map(page, f"{address}?model=mnist-16d&projection=two+dimensions")
    click(page, box, 0.4, 0.3)
    z = shown_z(page)
    assert z[2:] == [0.0] * 14
    assert z[0] != 0
    page.get_by_test_id("stSelectbox").filter(has_text="The others").click()
    page.get_by_text("at the code of an image").click()
    page.get_by_text("holds the others at those of held-out image 0").wait_for()
    wait_until(page, "map.header.origin[5] !== 0")
    click(page, box, 0.4, 0.3)
    mu = load_latents(SHIPPED_ROOT / "mnist-16d").mu[0].numpy()
    page.wait_for_timeout(300)
    np.testing.assert_allclose(shown_z(page)[2:], mu[2:], atol=0.006)
    exact = torch.tensor([state(page, "map.zOf(map.spot).z")])
    expected = 255 * load_model(SHIPPED_ROOT / "mnist-16d").recon(exact)[0, 0].numpy()
    assert np.abs(picture_of(page) - expected).max() <= 1


def test_pca_decodes_exactly_the_z_on_its_plane(page, address):
    box = open_map(page, f"{address}?model=mnist-16d")
    click(page, box, 0.3, 0.4)
    spot = state(page, "map.spot")
    z, _ = project_pca(load_latents(SHIPPED_ROOT / "mnist-16d").mu).to_z(spot["x"], spot["y"])
    expected = 255 * load_model(SHIPPED_ROOT / "mnist-16d").recon(z.unsqueeze(0))[0, 0].numpy()
    assert np.abs(picture_of(page) - expected).max() <= 1
    page.get_by_text("of its variance").wait_for()
    page.get_by_text("Trustworthiness of the map").wait_for()


def test_the_points_of_a_tsne_move_while_it_is_computed(page, address, models):
    page.goto(f"{address}?model=no-tsne&projection=t-SNE")
    page.get_by_role("button", name="Compute the t-SNE").click()
    wait_for_map(page)
    expect(page.locator(".panel")).to_be_hidden()  # nothing can be decoded yet
    seen = state(page, "Array.from(map.plane.points.slice(0, 10))")
    wait_until(page, f"map.plane.points[0] !== {seen[0]}")  # they moved, on the same canvas
    wait_until(page, "map.header.decodes")
    assert (models / "no-tsne" / "latents.safetensors").exists()
    assert "tsne" in load_latents(models / "no-tsne").embeddings
    assert not list((models / "no-tsne").glob("embedding*[!k]"))


# Every hand


def fingers(page: Page) -> Callable[..., None]:
    """touch("Start" | "Move" | "End", places): fingers at these places of the page, CSS pixels."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    return touch


def test_touch_taps_drags_and_pinches(new_page, address):
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    open_map(page, f"{address}?model=mnist-2d")
    page.get_by_label("Latent map", exact=True).scroll_into_view_if_needed()
    box = page.get_by_label("Latent map", exact=True).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.touchscreen.tap(x - 60, y - 40)
    wait_until(page, "map.pins.length === 1")
    before, touch = state(page, "map.view"), fingers(page)
    touch("Start", (x, y))
    for step in range(1, 6):
        touch("Move", (x + 12 * step, y + 6 * step))
    touch("End")
    panned = state(page, "map.view")
    assert (panned["x"] - before["x"]) * before["scale"] == pytest.approx(-60, abs=8)
    assert (panned["y"] - before["y"]) * before["scale"] == pytest.approx(30, abs=8)
    touch("Start", (x - 30, y), (x + 30, y))
    for step in range(1, 6):
        touch("Move", (x - 30 - 12 * step, y), (x + 30 + 12 * step, y))
    touch("End")
    assert state(page, "map.view.scale") / panned["scale"] == pytest.approx(3, rel=0.15)
    assert state(page, "map.pins.length") == 1  # neither was a tap
    state(page, "map.setTool('lasso')")
    touch("Start", (x, y))
    touch("Move", (x + 40, y + 40))
    wait_until(page, "map.outline.length > 1")
    touch("Start", (x + 40, y + 40), (x, y))
    wait_until(page, "map.outline.length === 0")  # a second finger pinches: the outline begun is no selection
    touch("End")


def test_the_keyboard_reaches_everything_and_a_screen_reader_hears_it(page, address):
    open_map(page, f"{address}?model=mnist-2d")
    page.get_by_label("Latent map", exact=True).focus()
    scale = state(page, "map.view.scale")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowRight")
    spot = state(page, "map.spot")
    assert [spot["x"] * scale, spot["y"] * scale] == pytest.approx([18, 16], abs=0.1)
    live = page.locator(".stage [role=status][aria-live=polite]")
    assert re.match(r"0\.\d\d, 0\.\d\d, near \d", live.inner_text())
    assert page.locator(".hover").inner_text() == live.inner_text()  # and eyes read it
    page.keyboard.press("Enter")
    assert len(state(page, "map.pins")) == 1
    page.keyboard.press("+")
    assert state(page, "map.view.scale") == pytest.approx(1.5 * scale)
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert state(page, "map.view.scale") == pytest.approx(scale / 1.5)
    page.keyboard.press("0")
    wait_until(page, "!map.view.isOwn")
    page.wait_for_timeout(200)
    assert state(page, "map.view.scale") == pytest.approx(scale)
    page.keyboard.press("Escape")
    assert state(page, "map.pins") == []


def test_full_screen_has_large_type(page, address):
    open_map(page, f"{address}?model=mnist-2d")
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement?.className.includes('latent-map')")
    assert page.locator(".latent-map").evaluate("(root) => getComputedStyle(root).fontSize") == "24px"
    page.wait_for_timeout(700)
    assert state(page, "map.look.typeSize") >= 20
    assert state(page, "map.view.height") > 500
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("!document.fullscreenElement")


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_the_map_is_sharp_on_dense_screens(new_page, address, ratio):
    page = new_page(device_scale_factor=ratio)
    open_map(page, f"{address}?model=digits-2d")
    for name in ("under", "points", "over"):
        width, css = page.locator(f".stage canvas.{name}").evaluate("(c) => [c.width, c.clientWidth]")
        assert width == pytest.approx(css * ratio, abs=1)


WITHOUT_WEBGL = """
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind === "webgl2" ? null : get.call(this, kind, ...rest);
};
"""


# The browser of the tests has no graphics card: here it says that it had one, and is drawn by as if it had.
WITH_A_CARD = """
const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (what) {
  return what === 0x9246 ? "a graphics card" : ask.call(this, what); // UNMASKED_RENDERER_WEBGL
};
"""


def coloured_pixels(page: Page) -> int:
    """On the canvas of the points, whatever draws it; drawn anew, for a card keeps no picture to look at."""
    return state(
        page,
        """(() => {
          map.draw();
          const { width, height } = map.painter.canvas;
          const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
          context.drawImage(map.painter.canvas, 0, 0);
          const { data } = context.getImageData(0, 0, width, height);
          return data.filter((value, i) => i % 4 === 3 && value > 60).length;
        })()""",
    )


def test_with_and_without_a_graphics_card_the_map_is_the_same(new_page, address):
    counts = []
    for script in ("", WITHOUT_WEBGL, WITH_A_CARD):
        page = new_page()
        page.add_init_script(script)
        box = open_map(page, f"{address}?model=mnist-2d")
        before = picture_of(page)
        click(page, box, 0.2, 0.3)
        wait_for_another_picture(page, before)
        painter = "CardPainter" if script == WITH_A_CARD else "PixelPainter"
        assert state(page, "map.painter.constructor.name") == painter
        counts.append(coloured_pixels(page))
    assert counts == pytest.approx([counts[2]] * 3, rel=0.1)
    assert counts[0] > 5000


def test_a_lost_graphics_card_is_made_up_for_and_comes_back(new_page, address):
    page = new_page()
    page.add_init_script(WITH_A_CARD)
    open_map(page, f"{address}?model=mnist-2d")
    before = coloured_pixels(page)
    state(page, "(window.loss = map.card.gl.getExtension('WEBGL_lose_context')).loseContext()")
    wait_until(page, "map.painter.constructor.name === 'PixelPainter'")
    page.wait_for_timeout(200)
    assert coloured_pixels(page) == pytest.approx(before, rel=0.1)
    page.evaluate("window.loss.restoreContext()")
    wait_until(page, "map.painter === map.card")
    page.wait_for_timeout(200)
    assert coloured_pixels(page) == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_has_room_for_it(new_page, address, width):
    page = new_page(viewport={"width": width, "height": 640}, has_touch=True)
    box = open_map(page, f"{address}?model=mnist-16d")
    assert box["width"] >= width - 60
    for name in ("Class regions", "Posterior"):
        layer(page, name).check()
    assert page.get_by_test_id("stMain").evaluate("(main) => main.scrollWidth <= main.clientWidth")
    buttons = page.locator(".latent-map button:visible").all()
    for button in buttons:
        edge = button.bounding_box()
        assert edge["x"] >= 0
        assert edge["x"] + edge["width"] <= width


# A link restores it


def test_a_link_restores_model_projection_view_layers_and_pins(new_page, address):
    page = new_page()
    box = open_map(page, f"{address}?model=mnist-16d&projection=two+dimensions")
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    click(page, box, 0.3, 0.3)
    click(page, box, 0.6, 0.5)
    layer(page, "Density").check()
    layer(page, "Prior").uncheck()
    page.get_by_label("Colour").select_option("kl")
    page.get_by_role("group", name="Classes on the map").get_by_role("button", name="7", exact=True).click()
    page.wait_for_function("location.search.includes('hidden=7')")
    pins = "map.pins.map(({ x, y }) => [x, y])"
    what = f"[map.header.id, map.view.place(), {pins}, map.layers, map.colour, [...map.plane.hidden]]"
    before, picture = state(page, what), picture_of(page, "Pin B, decoded")
    other = new_page()  # another visitor, who has the link alone
    open_map(other, page.url)
    after = state(other, what)
    assert after[0] == before[0]
    assert list(after[1].values()) == pytest.approx(list(before[1].values()), rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(after[2], before[2], rtol=1e-4, atol=1e-5)
    assert after[3:] == before[3:] == [["points", "density"], "kl", [7]]
    assert np.abs(picture_of(other, "Pin B, decoded").astype(int) - picture).max() <= 1
    assert other.get_by_text("whose codes lie nearest to the pinned z").is_visible()


def test_another_model_does_not_inherit_the_place(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    page.mouse.wheel(0, -300)
    click(page, box, 0.3, 0.3)
    page.wait_for_function("location.search.includes('pins=')")
    page.get_by_test_id("stSelectbox").filter(has_text="Model").click()
    page.get_by_role("option", name="digits-2d").click()
    wait_until(page, "map.header.name === 'digits-2d'")
    page.wait_for_timeout(800)
    assert state(page, "[map.pins.length, map.view.isOwn]") == [0, False]
    assert "pins=" not in page.url
    assert "model=digits-2d" in page.url


def test_a_colour_that_one_map_has_not_comes_back_on_the_next(page, address):
    open_map(page, f"{address}?model=mnist-16d&colour=z3")
    for model, colour in (("mnist-2d", ""), ("mnist-16d", "z3")):
        page.get_by_test_id("stSelectbox").filter(has_text="Model").click()
        page.get_by_role("option", name=model, exact=True).click()
        wait_until(page, f"map.header.name === '{model}'")
        assert state(page, "map.colour") == colour
        assert page.locator(".notice").inner_text() == ""


def test_layers_that_mean_nothing_on_one_map_come_back_on_the_next(page, address):
    open_map(page, f"{address}?model=mnist-16d&layers=points,pictures,posterior")
    for option, kind, shown in (("t-SNE", "tsne", ["points"]), ("PCA", "pca", ["points", "pictures", "posterior"])):
        page.get_by_test_id("stSelectbox").filter(has_text="Projection").click()
        page.get_by_role("option", name=option).click()
        wait_until(page, f"map.header.kind === '{kind}'")
        assert state(page, "map.layers") == shown


def test_a_link_shows_just_what_it_says(page, address):
    box = open_map(page, f"{address}?model=mnist-2d")
    click(page, box, 0.3, 0.3)
    click(page, box, 0.6, 0.3)
    page.wait_for_function("location.search.includes('pins=')")
    open_map(page, f"{address}?model=mnist-2d&pins=1,1")  # in the same tab, which remembers two
    assert state(page, "map.pins.map(({ x, y }) => [x, y])") == [[1, 1]]


@pytest.mark.parametrize("view", ["nowhere", "1e16,0,1", "1e5,0,1"])
def test_a_link_that_can_not_be_read_shows_the_whole_map_and_says_so(page, address, view):
    open_map(page, f"{address}?model=mnist-2d&view={view}")
    page.get_by_text("What the link says of view can't be read and is left out.").wait_for()
    assert not state(page, "map.view.isOwn")


def test_a_link_to_a_model_that_is_gone(page, address):
    open_map(page, f"{address}?model=gone&pins=1,1")
    page.get_by_text("There is no model 'gone' to open here; another one is shown.").wait_for()


# The server decodes where the browser can't


def test_a_large_decoder_answers_the_same_gestures_from_the_server(page, address, models):
    box = open_map(page, f"{address}?model=large")
    page.locator(".panel img[src]").first.wait_for()
    before = picture_of(page)
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    hovered = wait_for_another_picture(page, before)
    page.get_by_text("decoded under the pointer").wait_for()
    click(page, box, 0.2, 0.3)
    page.get_by_role("region", name="Pinned spots").wait_for()
    click(page, box, 0.7, 0.6)
    page.locator(".distance", has_text="‖").wait_for()
    spot = state(page, "map.pins[0]")
    z, _ = project_pca(load_latents(models / "large").mu).to_z(spot["x"], spot["y"])
    expected = 255 * load_model(models / "large").recon(z.unsqueeze(0))[0, 0].numpy()
    assert np.abs(picture_of(page, "Pin A, decoded") - expected).max() <= 1
    assert np.abs(hovered - expected).max() <= 2


# Odd models


def test_codes_that_are_no_numbers_are_drawn_nowhere_counted_and_said(page, address):
    box = open_map(page, f"{address}?model=odd")
    page.get_by_text("2 of 300 codes are not numbers; they are not drawn.").wait_for()
    assert state(page, "map.plane.order.length") == 298
    for name in ("Pictures", "Class regions", "Density", "Posterior"):
        layer(page, name).check()
    click(page, box, 0.5, 0.5)
    page.get_by_alt_text("Neighbour 5").wait_for()
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_alt_text("Selected images").wait_for()
    assert page.get_by_test_id("stException").count() == 0


@pytest.mark.parametrize("model", ["one-point", "one-class", "no-labels", "line"])
def test_a_model_of_little_is_a_map_too(page, address, model):
    box = open_map(page, f"{address}?model={model}")
    before = picture_of(page)
    for check in page.get_by_role("group", name="Layers").get_by_role("checkbox").all():
        check.check()
    click(page, box, 0.3, 0.4)
    if model == "one-point":
        page.get_by_role("region", name="Posterior of the pinned image").wait_for()
    else:
        wait_for_another_picture(page, before)
    page.get_by_alt_text(re.compile("Neighbour 1:")).wait_for()
    page.get_by_role("button", name="In view", exact=True).click()
    page.get_by_text(re.compile("Selection: ")).wait_for()
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_role("group", name="Classes on the map").get_by_role("button").count() == (
        1 if model == "no-labels" else 10
    )


# Points that were trained on


@pytest.mark.skipif(
    not (Path(os.environ.get("LATENTARIUM_DATA", "")) / "MNIST" / "raw").is_dir(), reason="MNIST is not on this machine"
)
def test_all_70_000_images_can_be_shown(new_page, models):
    with app_server({"LATENTARIUM_CHECKPOINTS": str(models)}) as server:
        page = new_page()
        open_map(page, f"{server.url}/latent_map?model=mnist-2d&images=all+images%2C+also+those+trained+on")
        assert state(page, "map.header.n") == 70_000
        page.get_by_text("The 70,000 points are images, held out and trained on").wait_for()
        page.get_by_text("held-out images whose codes").wait_for(state="detached", timeout=WAIT)


def test_an_own_folder_is_where_models_are_found(models, monkeypatch):
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(models))
    assert find("large") == models / "large"
