"""What people see: the app in Chromium, on a server of its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.app_server import app_server
from tests.browser import WAIT, picture_of, shown_z, wait_for_another_picture, wait_for_map
from vae.checkpoint import SHIPPED_ROOT, load_model


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {
        "LATENTARIUM_CHECKPOINTS": str(tmp_path_factory.mktemp("checkpoints")),
        "LATENTARIUM_DATA": str(tmp_path_factory.mktemp("no-data")),
    }


@pytest.fixture(scope="module")
def address(browser, environment):  # noqa: ARG001  (no server without a browser)
    with app_server(environment) as server:
        yield server.url


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/train", "Train"),
        ("/runs", "Runs"),
        ("/latent_map", "Latent map"),
        ("/interpolate", "Interpolate"),
        ("/", "Latentarium"),
    ],
)
def test_a_cold_deep_link_shows_its_page_and_the_whole_menu(browser, environment, page, path, title):  # noqa: ARG001
    with app_server(environment) as server:  # nobody has asked it for anything yet
        address = server.url
        page.goto(address + path)
        page.get_by_role("heading", name=title, exact=True).wait_for()
        for name in ("Latentarium", "Train", "Runs", "Latent map", "Interpolate"):
            page.get_by_test_id("stSidebarNavLink").filter(has_text=name).first.wait_for()
        assert page.get_by_test_id("stException").count() == 0
        assert page.url == address + path


def test_home_is_a_living_map_that_leads_to_the_pages(page, address):
    page.goto(address)
    spot = wait_for_map(page)
    before = picture_of(page)
    box = spot.bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    wait_for_another_picture(page, before)
    page.get_by_test_id("stMain").get_by_role("link", name="Interpolate").click()
    page.get_by_role("heading", name="Interpolate", exact=True).wait_for()


def test_a_click_on_an_empty_place_shows_what_the_model_decodes_there(page, address):
    page.goto(f"{address}/latent_map?model=mnist-2d")
    canvas = wait_for_map(page)
    before, box = picture_of(page), canvas.bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 20)  # the corner: no point is near
    picture = wait_for_another_picture(page, before)
    z = shown_z(page)
    assert abs(z[0]) > 1
    assert z[1] > 1
    # Outside judge: the core, asked for the same z. It is shown to two decimals, so the pictures differ a little.
    import torch

    model = load_model(SHIPPED_ROOT / "mnist-2d")
    expected = model.recon(torch.tensor([z]))[0, 0].numpy() * 255
    assert np.abs(picture - expected).max() < 6


def test_the_picture_follows_the_pointer_and_comes_back_to_the_pinned_spot(page, address):
    page.goto(f"{address}/latent_map?model=mnist-16d")  # PCA, a convolutional decoder
    canvas = wait_for_map(page)
    pinned, box = picture_of(page), canvas.bounding_box()
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", sent.append))
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    wait_for_another_picture(page, pinned)
    page.get_by_text("decoded under the pointer").wait_for()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] + 60)  # off the map
    page.get_by_text("decoded at the crosshair").wait_for()
    assert (picture_of(page) == pinned).all()
    assert sent == []


@pytest.mark.parametrize("model", ["mnist-2d", "mnist-16d", "digits-2d"])
def test_the_browser_decodes_what_torch_decodes(page, address, model):
    page.goto(f"{address}/latent_map?model={model}")
    wait_for_map(page)
    import torch

    trained = load_model(SHIPPED_ROOT / model)
    z = 2 * torch.randn(8, trained.config.latent_dim, generator=torch.Generator().manual_seed(0))
    decode = "(root, z) => Array.from(root.map.decoder.decode(z))"
    shown = [page.locator(".latent-map").evaluate(decode, row) for row in z.tolist()]
    # The shipped weights are stored as float16, and so reach the browser as they are.
    assert np.abs(np.array(shown) - trained.recon(z).flatten(1).numpy()).max() < 1e-5


def test_drag_pans_without_a_click_and_wheel_zooms_about_the_pointer(page, address):
    page.goto(f"{address}/latent_map?model=mnist-2d")
    canvas = wait_for_map(page)
    before, box = picture_of(page), canvas.bounding_box()
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] + 60)  # off the map: the pinned spot shows again
    page.get_by_text("decoded at the crosshair").wait_for()
    assert (picture_of(page) == before).all()
    page.mouse.click(x, y)  # the origin has moved away from under the middle
    wait_for_another_picture(page, before)
    z_before = shown_z(page)
    assert z_before[0] < 0 < z_before[1]
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(300)
    page.mouse.click(x + 1, y)  # almost the same spot: the zoom kept it under the pointer
    page.wait_for_timeout(700)
    assert np.allclose(shown_z(page), z_before, atol=0.05)


def test_the_map_answers_the_keyboard(page, address):
    page.goto(f"{address}/latent_map?model=mnist-2d")
    canvas = wait_for_map(page)
    before = picture_of(page)
    canvas.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_another_picture(page, before)
    z = shown_z(page)
    assert z[0] > 0.2
    assert z[1] == pytest.approx(0, abs=0.01)


def test_a_refresh_keeps_the_spot_and_the_model(page, address):
    page.goto(f"{address}/latent_map?model=digits-2d")
    canvas = wait_for_map(page)
    before, box = picture_of(page), canvas.bounding_box()
    page.mouse.click(box["x"] + 80, box["y"] + 80)
    picture = wait_for_another_picture(page, before)
    page.reload()
    wait_for_map(page)
    again = wait_for_another_picture(page, before)
    assert (again == picture).all()
    assert "model=digits-2d" in page.url


def test_a_click_on_tsne_takes_the_nearest_image_and_says_so(page, address):
    page.goto(f"{address}/latent_map?model=mnist-16d&projection=t-SNE")
    canvas = wait_for_map(page)
    before, box = picture_of(page), canvas.bounding_box()
    page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    wait_for_another_picture(page, before)
    page.locator("figcaption", has_text="the nearest encoded").wait_for()
    page.get_by_text("has no inverse").wait_for()


def test_a_legend_button_hides_its_class(page, address):
    page.goto(f"{address}/latent_map?model=mnist-2d")
    canvas = wait_for_map(page)
    before = canvas.screenshot()
    button = page.get_by_role("group", name="Classes on the map").get_by_role("button", name="0", exact=True)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    page.wait_for_timeout(300)
    assert canvas.screenshot() != before


def test_training_grows_curves_survives_a_refresh_and_stops_with_what_it_learnt(page, address):
    page.goto(f"{address}/train")
    page.get_by_label("Epochs").fill("100000")
    page.get_by_label("Name").fill("seen")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("button", name="Stop and keep what was learnt").wait_for()
    page.get_by_text("images/s").first.wait_for()
    page.locator(".instrument .curve.held_out[d*=L]").first.wait_for(state="attached")
    page.reload()  # a refresh
    page.get_by_text("images/s").first.wait_for()
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Interpolate").click()  # another page
    page.get_by_role("heading", name="Interpolate", exact=True).wait_for()
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Train").click()
    page.get_by_role("button", name="Stop and keep what was learnt").click()
    page.get_by_text("what was learnt is kept").wait_for()
    page.get_by_text("Held-out ELBO").first.wait_for()
    page.get_by_role("link", name="Open on the map").click()
    page.wait_for_url("**/latent_map?*model=seen*")
    page.get_by_role("heading", name="Latent map", exact=True).wait_for()
    wait_for_map(page)


def test_a_data_set_out_of_reach_is_one_sentence(page, address):
    page.goto(f"{address}/train")
    page.get_by_label("Data", exact=True).click()
    page.get_by_text("KMNIST (28 × 28)").click()
    page.get_by_label("Name").fill("no-net")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Start training").click()
    alert = page.get_by_test_id("stAlert").filter(has_text="KMNIST")
    alert.wait_for()
    assert "digits" in alert.inner_text()  # what to do instead
    assert "Traceback" not in page.content()


def test_every_picture_saves_as_png(page, address):
    page.goto(f"{address}/interpolate?model=mnist-2d")
    page.get_by_alt_text("Film strip").wait_for()
    for tab, button in {
        "Walk": "Save the strip as PNG",
        "Samples": "Save as PNG",
        "Around one image": "Save as PNG",
        "Dimensions": "Save as PNG",
    }.items():
        page.get_by_role("tab", name=tab).click()
        with page.expect_download() as download:
            page.get_by_role("button", name=button, exact=True).locator("visible=true").first.click()
        with Image.open(download.value.path()) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 28


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/train", "/runs?compare=mnist-2d", "/latent_map", "/interpolate"])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser, address, path, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address + path)
    page.locator("h1").wait_for(timeout=WAIT)
    page.wait_for_timeout(1500)
    assert page.get_by_test_id("stMain").evaluate("main => main.scrollWidth <= main.clientWidth")
    context.close()
