"""The Runs page: what the table says, what may be done with a run and by whom; and all of it in a real browser."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from benchmarks.app_server import app_server
from pages.ui.runs_table import KEY
from tests.conftest import SMALL_MODEL, SMALL_TRAINING
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import SHIPPED_NAMES, SHIPPED_ROOT, read_config, read_metrics
from vae.families import FAMILIES
from vae.film import read_film
from vae.worker import work

ROOT = Path(__file__).resolve().parent.parent


def open_runs(*compared: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run().switch_page("pages/runs.py")
    if compared:
        app.query_params["compare"] = ",".join(compared)
    app.run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption, *app.error, *app.info, *app.warning])


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def rows(app: AppTest) -> dict[str, dict]:
    return {row["name"]: row for row in app.dataframe[0].value.to_dict("records")}


def compared(app: AppTest) -> str:
    """The choice that the link tells."""
    value = app.query_params.get("compare", "")
    return value if isinstance(value, str) else value[0]


def tick(app: AppTest, *names: str) -> AppTest:
    """What a click on rows does: the numbers of the rows as they are shown."""
    shown = list(app.dataframe[0].value["name"])
    app.session_state[KEY] = {"selection": {"rows": [shown.index(name) for name in names], "columns": [], "cells": []}}
    return app.run()


# The table


def test_the_table_tells_each_runs_settings_and_figures(small):
    model = ModelConfig((1, 8, 8), network="conv", channels=(4, 8), widths=(16,), latent_dim=3, likelihood="gaussian",
        sigma=0.5, activation="tanh")  # fmt: skip
    runs.create("waits", model, TrainConfig("digits", beta=2, beta_schedule="warmup", free_bits=0.1))
    shown, metrics = rows(open_runs()), read_metrics(small)
    row = shown["small"]
    assert (row["state"], row["dataset"], row["network"]) == ("finished", "digits", "mlp 32-2")
    assert (row["elbo"], row["recon_loss"], row["kl"]) == (metrics.elbo, metrics.recon_loss, metrics.kl)
    assert (row["epoch"], row["epochs"], row["seconds"]) == (2, 2, metrics.seconds)
    assert row["active_units"] == metrics.active_units
    row = shown["waits"]
    assert (row["state"], row["network"], row["likelihood"]) == ("queued", "conv 4-8-16-3", "Gaussian, σ 0.5")
    assert (row["beta"], row["kl_terms"]) == (2, "warm-up, 5 epochs · free bits 0.1")
    assert row["elbo"] != row["elbo"]  # NaN: no figures yet, shown as a dash
    assert set(shown) == {"small", "waits", *SHIPPED_NAMES}


def test_a_damaged_run_is_told_and_the_others_are_listed(small):
    (small.parent / "broken").mkdir()
    app = open_runs()
    assert "broken" in texts(app)
    assert "broken" not in rows(app)
    assert "small" in rows(app)


@pytest.mark.usefixtures("checkpoints")
def test_where_nothing_was_trained_a_link_leads_to_the_train_page(monkeypatch, tmp_path):
    monkeypatch.setattr("vae.checkpoint.SHIPPED_ROOT", tmp_path)
    app = open_runs()
    assert "Nothing has been trained" in texts(app)
    assert app.get("page_link")[0].proto.label == "Train a model"


# Choosing


def test_the_choice_is_in_the_link_and_the_link_makes_the_choice(small):
    app = tick(open_runs(), "small")
    assert compared(app) == "small"
    assert app.subheader[0].value == "small"
    app = tick(app, "small", "mnist-2d")
    assert compared(app) == "small,mnist-2d"
    assert not app.subheader  # of two runs, only the curves
    assert len(app.get("plotly_chart")) == 1
    again = open_runs("small", "nothing-such")
    assert again.subheader[0].value == "small"
    assert compared(again) == "small"
    assert not tick(again).get("plotly_chart")
    assert small.is_dir()


def test_the_choice_stays_with_its_run_when_another_one_comes_above_it(small):
    app = tick(open_runs(), "small")
    before = app.session_state[KEY]["selection"]["rows"]
    runs.create("younger", SMALL_MODEL, SMALL_TRAINING)
    app.run()
    assert next(iter(rows(app))) == "younger"
    assert app.session_state[KEY]["selection"]["rows"] == [before[0] + 1]
    assert app.subheader[0].value == small.name


# Comparing


@pytest.mark.usefixtures("small")
def test_curves_that_can_not_be_compared_say_so():
    runs.create("strict", SMALL_MODEL, TrainConfig("digits", epochs=2, beta=4, device="cpu", threads=1))
    assert list(work("strict"))
    app = open_runs("small", "strict")
    assert "differ in β" in texts(app)
    app.segmented_control(key="compare-term").set_value("kl").run()
    assert "differ in β" not in texts(app)
    assert "differ in β" not in texts(open_runs("small"))
    assert "their nats count different things" in texts(open_runs("small", "mnist-2d"))


@pytest.mark.usefixtures("checkpoints")
def test_another_weight_of_the_labels_is_another_loss():
    family = FAMILIES["semi-supervised-vae"]
    for weight in (1.0, 50.0):
        settings = {"dataset": "digits", "label_weight": weight, "widths": (8,), "epochs": 1, "batch_size": 500}
        runs.create(f"weight-{weight:g}", *family.configs(settings))
        assert list(work(f"weight-{weight:g}"))
    assert "what else their loss counts" in texts(open_runs("weight-1", "weight-50"))


@pytest.mark.usefixtures("checkpoints")
def test_a_run_without_curves_is_named():
    runs.create("waits", SMALL_MODEL, SMALL_TRAINING)
    app = open_runs("waits")
    assert "No curves are kept of waits." in texts(app)
    assert not app.get("plotly_chart")


# Doing something with one run


def test_a_run_is_renamed_and_stays_chosen(small):
    app = open_runs("small")
    app.text_input(key="new name of small").set_value("mnist-2d").run()
    app.button(key="rename it small").click().run()
    assert "exists already" in app.error[0].value
    app.text_input(key="new name of small").set_value("other").run()
    app.button(key="rename it small").click().run()
    assert not app.exception
    assert not small.exists()
    assert app.subheader[0].value == "other"
    assert compared(app) == "other"


def test_a_run_is_deleted_after_a_question(small):
    app = open_runs("small")
    app.button(key="delete small").click().run()
    assert "small" in texts(app)
    next(button for button in app.button if button.label == "Keep it").click().run()
    assert "Delete it" not in labels(app)
    assert small.is_dir()
    app.button(key="delete small").click().run()
    next(button for button in app.button if button.label == "Delete it").click().run()
    assert not app.exception
    assert not small.exists()
    assert "small" not in rows(app)
    assert compared(app) == ""


def test_a_finished_run_goes_on_for_twice_its_epochs_if_not_told_otherwise(small, monkeypatch):
    asked = []
    monkeypatch.setattr("vae.runs.resume", lambda *arguments: asked.append(arguments))
    app = open_runs("small")
    assert not [label for label in labels(app) if label.startswith("Resume")]  # there is nothing left of it
    assert app.number_input[0].value == 4
    app.button(key="continue small").click().run()
    assert asked == [("small", 4)]
    monkeypatch.undo()
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(small.parent))
    app.number_input[0].set_value(1).run()
    app.button(key="continue small").click().run()
    assert "trained for 2 epochs already" in app.error[0].value


@pytest.mark.usefixtures("checkpoints")
def test_a_stopped_run_is_resumed(monkeypatch):
    asked = []
    monkeypatch.setattr("vae.runs.resume", lambda *arguments: asked.append(arguments))
    folder = runs.create("halted", SMALL_MODEL, SMALL_TRAINING)
    runs.write_state(folder, "stopped", "Stopped before it began.")
    app = open_runs("halted")
    assert "Stopped before it began." in texts(app)
    next(button for button in app.button if button.label == "Resume to epoch 2").click().run()
    assert asked == [("halted",)]


@pytest.mark.usefixtures("checkpoints")
def test_a_run_under_way_can_be_stopped_and_nothing_else():
    folder = runs.create("waits", SMALL_MODEL, SMALL_TRAINING)
    app = open_runs("waits")
    assert labels(app) == ["New run from these settings", "Stop"]
    app.button(key="stop waits").click().run()
    assert runs.read_control(folder).stop


@pytest.mark.usefixtures("checkpoints")
def test_a_shipped_checkpoint_stays_as_it_is():
    app = open_runs("mnist-2d")
    assert app.button(key="delete mnist-2d").disabled
    assert "ships" in app.button(key="delete mnist-2d").help
    assert app.get("download_button")  # its film ships with it
    assert SHIPPED_ROOT.is_dir()


CONVOLUTIONAL = {"network": "conv", "channels": (4, 8), "widths": (16, 8), "likelihood": "gaussian", "sigma": 0.5}


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize(
    ("model", "training"),
    [
        (CONVOLUTIONAL | {"latent_dim": 3, "activation": "tanh"}, {"beta": 3.0}),
        ({"latent": "point", "labels": "given", "n_classes": 10}, {"objective": "reconstruction"}),
        ({"latent": "point", "code_activation": "sigmoid"}, {"objective": "contractive"}),
        ({"labels": "given", "n_classes": 10}, {}),
        ({"latent": "codebook", "labels": "predicted", "n_classes": 10}, {"objective": "vq", "label_weight": 7.0}),
    ],
)
def test_the_settings_of_a_run_come_into_the_form(model, training):
    model = ModelConfig((1, 8, 8), **model)
    training = TrainConfig("digits", epochs=7, batch_size=50, learning_rate=0.004, seed=5, **training)
    folder = runs.create("odd", model, training)
    app = open_runs("odd")
    app.button(key="again odd").click().run()
    assert not app.exception
    # AppTest does not follow a page switch that a page asks for with what it typed, so the form is opened here.
    app.switch_page("pages/train.py").run()
    assert app.text_input(key="train-name").value == ""
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae.runs.start", lambda *arguments: started.append(arguments))
        next(button for button in app.button if button.label == "Start training").click().run()
    assert started[0][1:3] == read_config(folder)


# Who may do what


@pytest.mark.usefixtures("small")
def test_a_public_screen_only_looks(monkeypatch):
    assert open_runs("small").button
    monkeypatch.setenv("LATENTARIUM_MODE", "read-only")
    app = open_runs("small")
    assert not app.button
    assert len(app.get("page_link")) == 4
    assert app.get("plotly_chart")


@pytest.mark.usefixtures("small")
def test_in_a_class_everybody_changes_what_is_theirs_alone(monkeypatch):
    monkeypatch.setenv("LATENTARIUM_MODE", "class")
    monkeypatch.setattr("pages.ui.visitor.owner", lambda: "me")  # AppTest brings no cookies
    app = open_runs("small")
    assert app.button(key="delete small").disabled
    assert not app.button(key="again small").disabled
    folder = runs.create("mine", SMALL_MODEL, SMALL_TRAINING, owner="me")
    runs.write_state(folder, "stopped", "")
    app = open_runs("mine")
    assert not app.button(key="delete mine").disabled
    assert not app.button(key="resume mine").disabled


# What people see


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def address(browser, folder, tmp_path_factory):  # noqa: ARG001  (no server without a browser)
    environment = {
        "LATENTARIUM_CHECKPOINTS": str(folder), "LATENTARIUM_DATA": str(tmp_path_factory.mktemp("no-data")),
    }  # fmt: skip
    with app_server(environment) as server:
        yield server.url


def tick_row(page: Page, name: str, row: int) -> None:
    """Clicks the box at the left of a row, counted from 0; the table is one canvas, so by its place."""
    table = page.get_by_test_id("stDataFrame").locator(".dvn-scroller")
    table.click(position={"x": 16, "y": 35 * (row + 1) + 17})
    page.wait_for_url(f"**compare=*{name}*")


def test_runs_are_chosen_compared_renamed_continued_and_deleted(page, address, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(folder))
        for name in ("first", "second"):
            runs.create(name, SMALL_MODEL, SMALL_TRAINING)
            assert list(work(name))
    page.goto(f"{address}/runs")
    tick_row(page, "second", 0)
    page.get_by_role("heading", name="second", exact=True).wait_for()
    chart = page.get_by_test_id("stPlotlyChart")
    chart.get_by_text("second").wait_for()

    with page.expect_download() as download:
        page.get_by_role("button", name="Save the film as GIF").click()
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as film:
        assert (film.format, film.n_frames) == ("GIF", len(read_film(folder / "second").frames))

    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("renamed")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Rename it").click()
    page.get_by_role("heading", name="renamed", exact=True).wait_for()
    assert (folder / "renamed").is_dir()

    page.get_by_role("button", name="Continue").click()
    assert page.get_by_label("Train on to epoch").input_value() == "4"
    page.get_by_role("button", name="Continue training").click()
    page.get_by_text("Trained for 4 epochs").wait_for()  # the table renewed itself, and then the page
    assert read_config(folder / "renamed")[1].epochs == 4

    tick_row(page, "first", 1)
    chart.get_by_text("first").wait_for()
    chart.get_by_text("renamed").first.wait_for()  # while it is drawn anew, there may be two
    tick_row(page, "first", 0)  # no longer
    page.get_by_role("heading", name="first", exact=True).wait_for()
    page.get_by_role("button", name="Delete", exact=True).click()
    question = page.get_by_role("dialog")
    question.get_by_text("first").wait_for()
    assert (folder / "first").is_dir()
    question.get_by_role("button", name="Delete it").click()
    question.wait_for(state="hidden")
    page.get_by_role("heading", name="first", exact=True).wait_for(state="hidden")
    assert not (folder / "first").exists()
    assert page.get_by_test_id("stException").count() == 0


def test_the_settings_of_a_run_are_in_the_form_of_the_train_page(page, address, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(folder))
        runs.create("pattern", SMALL_MODEL, TrainConfig("digits", epochs=17, beta=2.5))
        runs.write_state(folder / "pattern", "stopped", "")
    page.goto(f"{address}/runs?compare=pattern")
    page.get_by_role("button", name="New run from these settings").click()
    page.get_by_role("heading", name="Train", exact=True).wait_for()
    expect(page.get_by_label("Epochs")).to_have_value("17", timeout=30_000)
    assert page.get_by_label("β, the weight of the KL").input_value() == "2.5"
    assert page.get_by_label("Dense widths, image to code").input_value() == "32"


def test_a_run_under_way_is_followed_and_keeps_the_choice_and_the_scroll(new_page, address, folder):
    page = new_page(viewport={"width": 1000, "height": 500})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(folder))
        runs.start("live", SMALL_MODEL, TrainConfig("digits", epochs=100_000, device="cpu", threads=1))
        page.goto(f"{address}/runs?compare=live")
        page.get_by_test_id("stPlotlyChart").wait_for()
        main = page.get_by_test_id("stMain")
        main.evaluate("main => main.scrollTo(0, 120)")
        page.wait_for_timeout(5000)  # it renews itself twice
        assert "compare=live" in page.url
        assert main.evaluate("main => main.scrollTop") == 120
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("what was learnt is kept").wait_for()
        page.get_by_role("button", name="Delete", exact=True).wait_for()
        wait_until_ended("live")


def test_a_new_visitor_of_a_class_sees_a_run_that_is_not_theirs(page, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(folder))
        runs.create("theirs", SMALL_MODEL, SMALL_TRAINING, owner="somebody else")
        runs.write_state(folder / "theirs", "stopped", "")
    with app_server({"LATENTARIUM_CHECKPOINTS": str(folder), "LATENTARIUM_MODE": "class"}) as server:
        page.goto(f"{server.url}/runs?compare=theirs")
        page.get_by_role("button", name="Delete").wait_for()
        page.wait_for_timeout(1000)  # until the visitor has a cookie
        assert page.get_by_role("button", name="Delete").is_disabled()
        assert page.get_by_test_id("stException").count() == 0


def wait_until_ended(name: str) -> None:
    deadline = time.monotonic() + 60
    while runs.status(name).is_active:
        assert time.monotonic() < deadline
        time.sleep(0.1)
