"""Each page by Streamlit's own AppTest: from the front door, and as a deep link that runs the page alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pages.ui.latent_map import Picks, Spot, _read_question, _read_selection, _read_spot, map_payload
from pages.ui.models import MapChoice, image_name, image_place, open_model
from pages.ui.projections import HOLDS
from pages.ui.selection import find_selected
from vae import embeddings, evaluations, runs
from vae.__main__ import main
from vae.checkpoint import SHIPPED_ROOT, find, load_latents, load_model, save_latents
from vae.config import ModelConfig, TrainConfig
from vae.families import FAMILIES
from vae.latent import Latents
from vae.processes import locked
from vae.worker import work

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("home", "train", "runs", "latent_map", "interpolate", "evaluate")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No data set and no runs but those a test makes; the shipped models are there."""
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("LATENTARIUM_DATA", str(tmp_path / "data"))


def open_page(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    for name, value in query.items():
        app.query_params[name] = value
    return app if page == "home" else app.switch_page(f"pages/{page}.py").run()


def texts(app: AppTest) -> str:
    elements = [*app.markdown, *app.caption, *app.error, *app.warning, *app.info, *app.success]
    return "\n".join(element.value for element in elements)


def map_header(app: AppTest) -> dict:
    payload = app.get("bidi_component")[0].proto.bytes
    return json.loads(payload[4 : 4 + int.from_bytes(payload[:4], "little")])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_without_data_and_without_complaint(page):
    app = open_page(page)
    assert not app.exception
    assert not app.error
    assert app.title[0].value


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_alone(page):
    app = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=60).run()
    # A link to another page is the one thing that only app.py can resolve.
    assert not [error for error in app.exception if "page_link" not in error.stack_trace[-1]]
    assert app.title[0].value


def test_the_map_sends_each_held_out_image_once():
    app = open_page("latent_map")
    payload = app.get("bidi_component")[0].proto.bytes
    head, header = int.from_bytes(payload[:4], "little"), map_header(app)
    assert header["n"] == 10_000
    lengths = {name: length for name, _, length in header["blocks"]}
    n_weights = sum(weight.numel() for weight in load_model(SHIPPED_ROOT / "mnist-2d").decoder.parameters())
    n = header["n"]
    assert lengths == {
        "points": 2 * n, "labels": n, "logvar": 2 * n, "value 0": n, "value 1": n, "weights": n_weights
    }  # fmt: skip
    sizes = {"f4": 4, "f2": 2, "u1": 1}
    padded = [length * sizes[kind] + -length * sizes[kind] % 4 for _, kind, length in header["blocks"]]
    assert len(payload) == 4 + head + sum(padded)
    assert header["classes"] == list("0123456789")


def test_a_decoder_too_large_for_the_browser_decodes_on_the_server():
    runs.create("large", ModelConfig((1, 8, 8), widths=(2000, 600)), TrainConfig("digits", epochs=1))
    assert list(work("large"))
    app = open_page("latent_map")
    app.selectbox(key="model").select("large").run()
    assert not app.exception
    header = map_header(app)
    assert header["layers"] is None  # no decoder travels
    assert header["decodes"]  # the server does: see test_map.py


def test_a_payload_beyond_the_limit_is_thinned_and_says_so(monkeypatch):
    monkeypatch.setattr("pages.ui.latent_map.MAX_PAYLOAD_BYTES", 100_000)
    map_payload.clear()
    header = map_header(open_page("latent_map"))
    map_payload.clear()
    assert header["stride"] == 2  # 17 bytes a point
    assert header["n"] == 5000
    assert header["notices"] == ["One in 2 of 10,000 images is drawn: all of them would be too much for the browser."]


def test_home_has_the_map_alone_and_the_map_page_its_tools():
    assert not map_header(open_page("home"))["tools"]
    assert map_header(open_page("latent_map"))["tools"]


def test_two_dimensions_and_what_the_others_are_held_at():
    app = open_page("latent_map")
    app.selectbox(key="model").select("mnist-16d").run()
    app.selectbox(key="projection").select("dims").run()
    app.selectbox(key="across").select(4).run()
    header = map_header(app)
    assert [row.index(1.0) for row in header["axes"]] == [4, 1]
    assert header["axis_names"] == ["z₅", "z₂"]
    assert set(header["origin"]) == {0.0}
    app.selectbox(key="hold").select("image").run()
    app.number_input(key="image").set_value(12).run()
    mu = load_latents(SHIPPED_ROOT / "mnist-16d").mu[12].tolist()
    origin = map_header(app)["origin"]
    assert origin[4] == origin[1] == 0
    assert origin[:1] + origin[2:4] + origin[5:] == pytest.approx(mu[:1] + mu[2:4] + mu[5:])
    assert "held-out image 12" in texts(app)
    app.selectbox(key="up").select(4).run()
    assert "same dimension" in texts(app)
    assert not app.exception


def test_the_held_image_is_in_the_link_and_for_a_model_of_fewer_it_is_the_last(tmp_path):
    folder = tmp_path / "checkpoints" / "few"
    shutil.copytree(SHIPPED_ROOT / "mnist-16d", folder)
    latents = load_latents(folder)
    save_latents(folder, Latents(latents.mu[:9], latents.logvar[:9], latents.labels[:9]), half=True)
    app = AppTest.from_file(str(ROOT / "pages" / "latent_map.py"), default_timeout=60)
    app.query_params.update(model="mnist-16d", projection="two dimensions", hold=HOLDS["image"], image="12")
    app.run()
    assert "held-out image 12" in texts(app)
    app.number_input(key="image").set_value(9_999).run()
    assert app.query_params["image"] == "9999"
    app.selectbox(key="model").select("few").run()
    assert not app.exception
    assert "held-out image 8" in texts(app)


def test_an_image_has_one_name():
    opened = open_model("mnist-2d")
    assert [image_name(opened, index) for index in (9_999, 12_345)] == ["image 9,999", "training image 2,345"]
    assert image_place(opened, 12_345) == ("training", 2_345)


def test_classes_that_can_not_be_are_hidden_from_no_selection():
    selection = _read_selection({"outline": [[0, 0], [1, 0], [1, 1]], "hidden": [3, 1e30, -1, 256]})
    assert selection.hidden == (3,)
    assert len(find_selected(open_model("mnist-2d"), MapChoice("z"), selection)) > 0


def test_a_spot_that_is_too_far_for_numbers_has_no_neighbours(monkeypatch):
    far = Picks(Spot(1e300, 0.0, what="pin"))
    monkeypatch.setattr("pages.ui.explore.latent_map", lambda *_: far)
    app = open_page("latent_map")
    assert "no code is a finite distance away" in texts(app)
    assert not app.exception


def test_the_failure_of_one_projection_is_not_told_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr("pages.ui.projections.find_spec", lambda _: object())
    folder = tmp_path / "checkpoints" / "bare"
    shutil.copytree(SHIPPED_ROOT / "mnist-16d", folder)
    save_latents(folder, replace(load_latents(folder), embeddings={}), half=True)
    failed = embeddings.EmbeddingStatus("umap", "failed", "It did not work.", 0.0)
    monkeypatch.setattr(embeddings, "embedding_status", lambda _: failed)
    app = open_page("latent_map")
    app.selectbox(key="model").select("bare").run()
    app.selectbox(key="projection").select("tsne").run()
    assert not app.error
    app.selectbox(key="projection").select("umap").run()
    assert [error.value for error in app.error] == ["It did not work."]


def test_umap_is_offered_where_it_is_installed(monkeypatch):
    monkeypatch.setattr("pages.ui.projections.find_spec", lambda _: object())
    app = open_page("latent_map")
    app.selectbox(key="model").select("mnist-16d").run()
    assert app.selectbox(key="projection").options[-1] == "UMAP"
    app.selectbox(key="projection").select("umap").run()
    assert "This model has no UMAP yet." in texts(app)
    assert "Compute the UMAP" in [button.label for button in app.button]
    assert not app.exception


@pytest.mark.parametrize(
    "event",
    [
        {"click": {"x": "NaN", "y": 0}},
        {"click": {"x": 1}},
        {"click": "here"},
        {"click": {"x": 0, "y": 0, "image": "first"}},
        {"selection": {"outline": [[0]], "hidden": []}},
        {"selection": {"outline": [[0, 0]] * 401, "hidden": []}},
        {"selection": {"outline": [[0, 0]], "hidden": [1e400]}},
        {"decode": {"token": 1, "z": [[0.0, 1e400]]}},
        {"decode": {"token": 1, "z": [[0.0, 0.0]] * 5}},
        {"decode": {"token": "x", "z": "y"}},
        {"decode": {"token": 1e400, "z": [[0.0, 0.0]]}},
    ],
)
def test_what_no_map_sends_is_ignored(event):
    (name, value), *_ = event.items()
    read = {"click": _read_spot, "selection": _read_selection, "decode": _read_question}[name]
    assert read(value) is None


def test_another_model_gives_another_map():
    app = open_page("latent_map")
    before = app.get("bidi_component")[0].proto.bytes
    app.selectbox(key="model").select("digits-2d").run()
    after = app.get("bidi_component")[0].proto.bytes
    assert not app.exception
    assert before != after
    assert "300 points" in texts(app)


def test_more_than_two_dimensions_offer_pca_and_tsne():
    app = open_page("latent_map")
    app.selectbox(key="model").select("mnist-16d").run()
    assert app.selectbox(key="projection").options == ["PCA", "two dimensions", "t-SNE"]
    assert "of its variance" in texts(app)
    app.selectbox(key="projection").select("tsne").run()
    assert not app.exception
    assert "has no inverse" in texts(app)


def test_interpolation_ends_at_the_two_codes_and_is_named():
    app = open_page("interpolate")
    assert [tab.label for tab in app.tabs] == ["Walk", "Samples", "Around one image", "Dimensions"]
    assert "z** =" in texts(app)
    app.slider(key="walk position").set_value(1.0).run()
    end = app.number_input(key="walk to mnist-2d index").value
    from pages.ui.models import open_model

    mu = open_model("mnist-2d").latents.mu[end]
    assert f"**z** = ({', '.join(f'{value:.2f}' for value in mu.tolist())})" in texts(app)


def test_a_code_that_is_no_number_is_said_and_never_drawn_by_chance():
    runs.create("odd", ModelConfig((1, 8, 8), widths=(16,)), TrainConfig("digits", epochs=1))
    assert list(work("odd"))
    latents = load_latents(find("odd"))
    latents.mu[:] = torch.where(torch.arange(300).unsqueeze(1) == 7, latents.mu, torch.nan)
    save_latents(find("odd"), latents, half=False)
    app = open_page("interpolate")
    app.selectbox(key="model").select("odd").run()
    assert not app.exception
    app.number_input(key="walk from odd index").set_value(5).run()
    assert "The code of image 5 is not a number" in texts(app)
    app.button(key="walk from odd chance").click().run()
    assert app.number_input(key="walk from odd index").value == 7
    assert not app.exception


def test_redraw_changes_the_samples_and_the_same_seed_brings_them_back():
    app = open_page("interpolate")

    def sheet() -> str:
        return next(html.proto.body for html in app.get("html") if 'alt="Samples of the prior"' in html.proto.body)

    first = sheet()
    app.button(key="prior redraw").click().run()
    assert sheet() != first
    app.number_input(key="prior seed").set_value(0).run()
    assert sheet() == first


def test_each_dimension_has_a_slider():
    app = open_page("interpolate")
    app.selectbox(key="model").select("mnist-16d").run()
    assert not app.exception
    assert [app.slider(key=f"dimension mnist-16d {i}").label[0] for i in range(16)] == ["z"] * 16


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train-epochs-digits", 0, "epochs: 0 was given"),
        ("train-batch", 5000, "1,497 training images"),
        ("train-lr", 0.0, "learning_rate: 0.0 was given"),
        ("train-latent_dim", 0, "latent_dim: 0 was given"),
        ("train-beta", -1.0, "beta: -1.0 was given"),
    ],
)
def test_impossible_settings_are_said_and_can_not_be_started(key, value, sentence):
    app = open_page("train")
    app.number_input(key=key).set_value(value).run()
    assert not app.exception
    assert sentence in app.error[0].value
    assert next(button for button in app.button if button.label == "Start training").disabled


@pytest.mark.parametrize("widths", ["a, b", "512; 256", "0", "99999", "1.5"])
def test_widths_that_are_no_widths_are_said(widths):
    app = open_page("train")
    app.text_input(key="train-widths-mlp").set_value(widths).run()
    assert not app.exception
    assert "widths:" in app.error[0].value


@pytest.mark.parametrize("name", ["a/b", "..", "../up", ".hidden", "mnist-2d", "a b"])
def test_a_name_that_can_not_be_or_is_taken_is_said(name):
    app = open_page("train")
    app.text_input(key="train-name").set_value(name).run()
    next(button for button in app.button if button.label == "Start training").click().run()
    assert not app.exception
    assert "name:" in app.error[0].value


def test_a_damaged_checkpoint_is_said_and_the_others_still_open(tmp_path):
    broken = tmp_path / "checkpoints" / "broken"
    shutil.copytree(SHIPPED_ROOT / "digits-2d", broken)
    (broken / "config.json").write_text('{"image_shape"')
    app = open_page("latent_map")
    assert not app.exception
    assert "broken" not in app.selectbox(key="model").options
    assert "broken" in texts(app)
    assert app.get("bidi_component")


def test_a_model_that_goes_bad_while_it_is_open_is_one_sentence(tmp_path):
    opened = tmp_path / "checkpoints" / "opened"
    shutil.copytree(SHIPPED_ROOT / "digits-2d", opened)
    app = open_page("interpolate")
    app.selectbox(key="model").select("opened").run()
    assert not app.error
    (opened / "model.safetensors").write_bytes(b"no weights")
    app.button(key="prior redraw").click().run()
    assert not app.exception
    assert app.error


def test_an_image_is_chosen_by_class_by_index_and_by_chance():
    app = open_page("interpolate")

    def shown() -> tuple[str, int]:
        return app.selectbox(key="walk from mnist-2d class").value, app.number_input(
            key="walk from mnist-2d index"
        ).value

    labels = load_latents(SHIPPED_ROOT / "mnist-2d").labels.tolist()
    assert shown() == ("3", labels.index(3))
    app.selectbox(key="walk from mnist-2d class").select("5").run()
    assert shown() == ("5", labels.index(5))
    app.number_input(key="walk from mnist-2d index").set_value(1000).run()
    assert shown() == (str(labels[1000]), 1000)
    app.button(key="walk from mnist-2d chance").click().run()
    chosen, index = shown()
    assert chosen == str(labels[1000]) == str(labels[index])


def test_damaged_weights_are_one_sentence_on_the_page(tmp_path):
    broken = tmp_path / "checkpoints" / "broken"
    shutil.copytree(SHIPPED_ROOT / "digits-2d", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    app = open_page("latent_map")
    app.selectbox(key="model").select("broken").run()
    assert not app.exception
    assert "model.safetensors" in app.error[0].value
    app.selectbox(key="model").select("digits-2d").run()
    assert not app.error


def test_a_finished_run_shows_its_figures_and_curves():
    folder = runs.create("tiny", ModelConfig((1, 8, 8), widths=(16,)), TrainConfig("digits", epochs=2))
    assert list(work("tiny"))
    app = open_page("train")
    assert app.selectbox(key="run").value == "tiny"
    assert not app.exception
    assert "Trained for 2 epochs" in texts(app)
    elbo = json.loads((folder / "metrics.json").read_text())["elbo"]
    assert f"Held-out ELBO −{-elbo:.2f}" in texts(app)
    assert app.get("bidi_component")


def test_a_public_screen_trains_and_computes_nothing(monkeypatch):
    monkeypatch.setenv("LATENTARIUM_MODE", "read-only")
    app = open_page("train")
    assert not app.exception
    assert not app.button
    assert not app.text_input
    assert app.selectbox(key="run").value
    assert app.get("bidi_component")
    runs.create("deep", ModelConfig((1, 8, 8), widths=(16,), latent_dim=4), TrainConfig("digits", epochs=1))
    assert list(work("deep"))
    app = open_page("latent_map")
    app.selectbox(key="model").select("deep").run()
    app.selectbox(key="projection").select("tsne").run()
    assert not app.exception
    assert "has no t-SNE" in texts(app)
    assert not app.button


def test_a_mode_that_is_none_is_said(monkeypatch):
    monkeypatch.setenv("LATENTARIUM_MODE", "classroom")
    app = open_page("train")
    assert not app.exception
    assert "LATENTARIUM_MODE: 'classroom' was given; choose one of single, class, read-only" in app.error[0].value


def test_a_setting_of_the_server_that_can_not_be_is_said(monkeypatch):
    monkeypatch.setenv("LATENTARIUM_RUNS", "many")
    app = open_page("train")
    assert next(button for button in app.button if button.label == "Start training").disabled
    assert not app.exception
    assert "LATENTARIUM_RUNS: 'many' was given" in texts(app)


# Evaluate


def test_a_model_is_measured_and_its_figures_shown(small):
    app = open_page("evaluate", model=small.name)
    assert "Nothing has been measured" in app.info[0].value
    work = evaluations.work_evaluation
    evaluations.write_json(small / evaluations.STATE_FILE, {"n_samples": 2})
    work(small.name)
    app.run()
    figures = evaluations.read_figures(small.name)
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["ELBO"] == f"{figures['elbo']:.2f}".replace("-", "−")
    assert shown["5-NN accuracy"] == f"{figures['knn_accuracy']:.1%}"
    assert "MIG" not in shown  # nobody knows the factors of digits
    assert next(metric.delta for metric in app.metric if metric.label == "Dimensions in use") == "of 2"
    assert "Over 300 held-out images" in texts(app)
    assert not app.exception


def test_what_the_command_measured_is_on_the_page(small, capsys):
    assert main(["evaluate", small.name, "--importance-samples", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    shown = {metric.label: metric.value for metric in open_page("evaluate", model=small.name).metric}
    assert shown["−log p(x)"] == f"{figures['nll']:.2f}"


def test_what_cannot_be_measured_is_said_on_the_page(small):
    runs.write_state(small, "running", "Training.")
    app = open_page("evaluate", model=small.name)
    with locked(small / "worker.lock"):
        app.button[0].click().run()
    assert "is in training" in app.error[0].value


@pytest.mark.parametrize("name", FAMILIES)
def test_the_form_offers_every_family(name):
    app = open_page("train")
    app.selectbox(key="train-family").set_value(name).run()
    assert not app.exception
    assert not app.error
    assert FAMILIES[name].about in " ".join(caption.value for caption in app.caption)
    assert not next(button for button in app.button if button.label == "Start training").disabled


ON_THE_MAP = {
    "ae": ("there is no posterior", "Nothing pulled the codes to a prior", "No **Prior** to show"),
    "cvae": ("told each image's class", "to which the KL term pulls all codes"),
    "vq-vae": ("There is no spread", "pictures change in steps", "No **Prior** to show"),
    "swae": ("there is no posterior", "to which the distance from the prior in the loss pulls all codes"),
    "mmd-vae": ("a normal distribution", "to which the distance from the prior in the loss pulls all codes"),
    "iwae": ("a normal distribution", "to which the bound pulls all codes"),
    "beta-tcvae": ("a normal distribution", "to which the KL term pulls all codes"),
}


@pytest.mark.parametrize("name", ON_THE_MAP)
def test_pages_follow_the_family(name):
    model, training = FAMILIES[name].configs(
        {"dataset": "digits", "widths": (16,), "latent_dim": 2, "epochs": 1, "threads": 1, "device": "cpu"}
    )
    runs.create(name, model, training)
    for _ in work(name):
        pass
    for page in ("latent_map", "interpolate", "evaluate"):
        app = open_page(page, model=name)
        assert not app.exception, page
        if page == "latent_map":
            assert [sentence for sentence in ON_THE_MAP[name] if sentence not in texts(app)] == []
    app = open_page("train", run=name)
    assert not app.exception


@pytest.mark.parametrize(
    ("family", "key", "value", "sentence"),
    [
        ("ae", "train-latent_dim", 100, "latent_dim: 100 was given"),
        ("iwae", "train-n_samples", 0, "n_samples: 0 was given"),
        ("sparse-ae", "train-rho", 1.0, "rho: 1.0 was given"),
        ("vq-vae", "train-n_symbols", 1, "n_symbols: 1 was given"),
        ("vq-vae", "train-symbol_dim", 3, "symbol_dim: 3 was given"),
        ("iwae", "train-dropout", 0.2, "dropout: the k draws"),
        ("denoising-ae", "train-corruption_level", 2.0, "corruption_level: 2.0 was given"),
        ("wae-mmd", "train-batch", 1, "batch_size: 1 was given"),
    ],
)
def test_what_is_wrong_is_said_below_its_field(family, key, value, sentence):
    app = open_page("train")
    app.selectbox(key="train-family").set_value(family).run()
    app.number_input(key=key).set_value(value).run()
    in_expander = key in ("train-dropout", "train-corruption_level")  # which may be closed, so it is said twice
    assert [error.value.startswith(sentence) for error in app.error] == [True] * (1 + in_expander)
    assert next(button for button in app.button if button.label == "Start training").disabled
    shown = [(node.type, getattr(node, "key", None)) for node in app.main]
    assert shown[shown.index(("number_input", key)) + 1][0] == "error"
