"""Checkpoints: what is saved comes back, whatever is damaged is said in a sentence, and nothing is half written."""

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_MODEL, SMALL_TRAINING
from safetensors.torch import load_file, save_file

from vae import VAE, ConfigError, ModelConfig, TrainConfig, data
from vae.checkpoint import (
    SHIPPED_NAMES,
    SHIPPED_ROOT,
    CheckpointError,
    Metrics,
    check_name,
    checkpoint_folders,
    find,
    list_checkpoints,
    load_latents,
    load_model,
    read_config,
    read_history,
    read_metrics,
    save_config,
    save_latents,
    save_results,
    write_atomically,
)
from vae.evaluations import read_figures
from vae.latent import Latents, encode_images
from vae.objectives import kl_per_dim
from vae.train import held_out_elbo


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """Inside, the system refuses to let a file grow beyond n_bytes, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Round trips


@pytest.fixture
def results() -> tuple[VAE, Latents, Metrics]:
    model = VAE(SMALL_MODEL)
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    embeddings = {"tsne": torch.randn(20, 2), "umap": torch.randn(20, 2)}
    values = {"recon_loss": torch.rand(20), "of my own": torch.rand(20)}
    latents = Latents(torch.randn(20, 2), torch.randn(20, 2), torch.randint(10, (20,)), embeddings, values)
    return model, latents, Metrics(20, -24.5, 20.25, 4.25, 2.0, 1.5)


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_comes_back(tmp_path, results, half):
    model, latents, metrics = results
    training = replace(SMALL_TRAINING, half=half)
    save_config(tmp_path, SMALL_MODEL, training)
    save_results(tmp_path, model, latents, metrics, half)
    assert sorted(contents(tmp_path)) == ["config.json", "latents.safetensors", "metrics.json", "model.safetensors"]
    assert read_config(tmp_path) == (SMALL_MODEL, training)
    assert read_metrics(tmp_path) == metrics

    loaded, loaded_latents = load_model(tmp_path), load_latents(tmp_path)
    # float16 has 11 significant bits
    tolerance = {"rtol": 2**-11, "atol": 1e-7} if half else {"rtol": 0, "atol": 0}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, **tolerance)
    for name in ("mu", "logvar", "embeddings"):
        torch.testing.assert_close(getattr(loaded_latents, name), getattr(latents, name), **tolerance)
    torch.testing.assert_close(loaded_latents.values, latents.values, rtol=0, atol=0)  # in full either way
    assert torch.equal(loaded_latents.labels, latents.labels)


def test_codes_without_labels_and_some_that_are_no_numbers_open(small):
    edit_tensors(CODES, lambda tensors: tensors.pop("labels"))(small)
    edit_tensors(CODES, lambda tensors: tensors["mu"][7].fill_(torch.nan))(small)
    latents = load_latents(small)
    assert not latents.has_labels
    assert latents.labels.tolist() == [0] * 300
    assert torch.nonzero(~latents.finite).flatten().tolist() == [7]
    save_latents(small, latents, half=False)
    assert not load_latents(small).has_labels


def test_what_a_run_keeps_of_each_image(small):
    """Judge: the objective itself, at z = mu."""
    latents, model = load_latents(small), load_model(small)
    x = data.to_float(data.load("digits", "held_out").images)
    expected = model.recon_loss(model.decode(latents.mu), x)
    torch.testing.assert_close(latents.values["recon_loss"], expected, rtol=1e-4, atol=1e-3)


def test_half_precision_is_half_the_size(tmp_path, results):
    sizes = []
    for half in (False, True):
        save_results(tmp_path, *results, half)
        sizes.append(sum((tmp_path / f"{name}.safetensors").stat().st_size for name in ("model", "latents")))
    assert 0.45 < sizes[1] / sizes[0] < 0.6


def test_a_loaded_model_may_be_shared(small):
    model = load_model(small)
    assert not model.training
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert not any(value.requires_grad for value in model.parameters())
    assert not any(value.is_meta for value in model.parameters())


def test_a_checkpoint_holds_the_model_that_its_figures_are_of(small):
    """Judge: encoding and measuring the held-out images again with what was loaded."""
    held_out = data.load("digits", "held_out")
    model, latents, metrics = load_model(small), load_latents(small), read_metrics(small)
    mu, logvar = encode_images(model, held_out.images)
    torch.testing.assert_close(latents.mu, mu)
    torch.testing.assert_close(latents.logvar, logvar)
    assert torch.equal(latents.labels, held_out.labels)
    terms = held_out_elbo(model, held_out.images)
    assert (metrics.recon_loss, metrics.kl) == pytest.approx((terms.recon_loss, terms.kl))
    assert metrics.elbo == pytest.approx(-(metrics.recon_loss + metrics.kl))
    assert (metrics.n_images, metrics.epochs) == (300, 2)


def test_nothing_in_a_checkpoint_is_pickled(small):
    for name, content in contents(small).items():
        if name.endswith(".safetensors"):
            header_size = struct.unpack("<Q", content[:8])[0]
            json.loads(content[8 : 8 + header_size])
        elif name.endswith((".json", ".jsonl")):
            for document in content.decode().splitlines() if name.endswith("l") else [content]:
                json.loads(document)
        elif name == "film.bin":
            header_size = struct.unpack("<Q", content[8:16])[0]  # after length and checksum, safetensors again
            json.loads(content[16 : 16 + header_size])
        else:
            assert content == b""  # a lock


# Damage


def edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return damage


def edit_training(**changes: object) -> Callable[[Path], None]:
    return edit_json("config.json", training=asdict(SMALL_TRAINING) | changes)


def drop_key(name: str, key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        del content[key]
        (folder / name).write_text(json.dumps(content))

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def edit_tensors(name: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        edit(tensors)
        save_file(tensors, folder / name)

    return damage


def make_folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


WEIGHTS, CODES = "model.safetensors", "latents.safetensors"
HEADER_OF_4_GB = struct.pack("<Q", 2**32) + b"{}"
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
BIG = b'{"a": "' + b"a" * 2_000_000 + b'"}'
LONG_INTEGER = b'{"image_shape": ' + b"9" * 10_000 + b"}"

DAMAGED_CONFIGS = {
    "missing": remove("config.json"),
    "a folder": make_folder("config.json"),
    "empty": write("config.json", b""),
    "cut": cut("config.json", 0.5),
    "no JSON": write("config.json", b"\x89PNG\r\n\x1a\n\0\xff"),
    "a list": write("config.json", b"[]"),
    "deep": write("config.json", DEEP),
    "big": write("config.json", BIG),
    "a long integer": write("config.json", LONG_INTEGER),
    "someone else's": write("config.json", b'{"model_type": "bert", "hidden_size": 768}'),
    "someone else's training": edit_json("config.json", training={"lr": 1}),
    "no training": drop_key("config.json", "training"),
    "no network": drop_key("config.json", "network"),
    "widths of words": edit_json("config.json", widths=["a"]),
    "channels of an MLP": edit_json("config.json", channels=[4]),
    "another image shape": edit_json("config.json", image_shape=[1, 28, 28]),
    "a vast number": edit_json("config.json", sigma=10**400),
    "not a number": edit_json("config.json", sigma=float("nan")),
    "an unknown data set": edit_training(dataset="imagenet"),
    "a data set that is none": edit_training(dataset={"digits": 1}),
    "a long name of a data set": edit_training(dataset="a" * 900_000),
}
DAMAGED_WEIGHTS = {
    "missing": remove(WEIGHTS),
    "a folder": make_folder(WEIGHTS),
    "empty": write(WEIGHTS, b""),
    "cut": cut(WEIGHTS, 0.9),
    "cut in its header": cut(WEIGHTS, 0.001),
    "a pickle": write(WEIGHTS, b"\x80\x02}q\x00."),
    "a vast header": write(WEIGHTS, HEADER_OF_4_GB),
    "a deep header": write(WEIGHTS, struct.pack("<Q", len(DEEP)) + DEEP),
    "no tensors": write(WEIGHTS, struct.pack("<Q", 2) + b"{}"),
    "of another network": edit_json("config.json", widths=[31]),
    "of a larger network": edit_json("config.json", widths=[8192] * 8),
    "of another depth": edit_json("config.json", widths=[32, 32]),
    "of other latent dimensions": edit_json("config.json", latent_dim=3),
    "one too few": edit_tensors(WEIGHTS, lambda tensors: tensors.pop("decoder.0.bias")),
    "one too many": edit_tensors(WEIGHTS, lambda tensors: tensors.update(more=torch.zeros(1))),
    "of another name": edit_tensors(WEIGHTS, lambda tensors: tensors.update(more=tensors.pop("decoder.0.bias"))),
    "NaN": edit_tensors(WEIGHTS, lambda tensors: tensors["decoder.0.bias"].fill_(torch.nan)),
    "infinite": edit_tensors(WEIGHTS, lambda tensors: tensors["encoder.1.weight"][0].fill_(torch.inf)),
}
DAMAGED_CODES = {
    "missing": remove(CODES),
    "cut": cut(CODES, 0.7),
    "no mu": edit_tensors(CODES, lambda tensors: tensors.pop("mu")),
    "something more": edit_tensors(CODES, lambda tensors: tensors.update(more=torch.zeros(300, 2))),
    "of other latent dimensions": edit_tensors(CODES, lambda tensors: tensors.update(mu=torch.zeros(300, 3))),
    "of fewer images": edit_tensors(CODES, lambda tensors: tensors.update(mu=torch.zeros(299, 2))),
    "of no images": edit_tensors(
        CODES, lambda t: t.update(mu=torch.zeros(0, 2), logvar=torch.zeros(0, 2), labels=t["labels"][:0])
    ),
    "a single number": edit_tensors(CODES, lambda tensors: tensors.update(mu=torch.tensor(0.0))),
    "a single label": edit_tensors(CODES, lambda tensors: tensors.update(labels=torch.tensor(1, dtype=torch.uint8))),
    "labels beyond the classes": edit_tensors(CODES, lambda tensors: tensors["labels"].fill_(10)),
    "labels that are no integers": edit_tensors(CODES, lambda tensors: tensors.update(labels=torch.full((300,), 0.5))),
    "all NaN": edit_tensors(CODES, lambda tensors: tensors["mu"].fill_(torch.nan)),
    "a t-SNE in space": edit_tensors(CODES, lambda tensors: tensors.update(tsne=torch.zeros(300, 3))),
    "a t-SNE of NaN": edit_tensors(CODES, lambda tensors: tensors.update(tsne=torch.full((300, 2), torch.nan))),
}
DAMAGED_METRICS = {
    "missing": remove("metrics.json"),
    "cut": cut("metrics.json", 0.5),
    "no ELBO": drop_key("metrics.json", "elbo"),
    "words": edit_json("metrics.json", elbo="good"),
    "not a number": edit_json("metrics.json", elbo=float("nan")),
    "a vast number": edit_json("metrics.json", elbo=-(10**400)),
}


def assert_a_sentence(message: str) -> None:
    """What is wrong, with which file, and what to do; no longer than a paragraph."""
    assert message.startswith("The checkpoint small can't be opened: ")
    assert "copy it there again, or delete" in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("damage", DAMAGED_CONFIGS.values(), ids=DAMAGED_CONFIGS)
def test_a_damaged_config(small, damage):
    damage(small)
    for open_it in (read_config, load_model, load_latents):
        with pytest.raises(CheckpointError, match=r"config\.json") as caught:
            open_it(small)
        assert_a_sentence(str(caught.value))
    problem = {summary.name: summary.problem for summary in list_checkpoints()}["small"]
    assert problem == str(caught.value)


@pytest.mark.parametrize("damage", DAMAGED_WEIGHTS.values(), ids=DAMAGED_WEIGHTS)
def test_damaged_weights(small, damage):
    damage(small)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        load_model(small)
    assert_a_sentence(str(caught.value))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell how much memory is in use")
def test_a_vast_network_is_refused_before_it_takes_memory(small):
    """config.json describes 2 x 470 million weights, 3.8 GB; there is room for 1 GB."""
    edit_json("config.json", widths=[8192] * 8)(small)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="of another network"):
            load_model(small)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("damage", DAMAGED_CODES.values(), ids=DAMAGED_CODES)
def test_damaged_codes(small, damage):
    damage(small)
    with pytest.raises(CheckpointError, match=r"latents\.safetensors") as caught:
        load_latents(small)
    assert_a_sentence(str(caught.value))
    load_model(small)  # the rest is as good as ever


@pytest.mark.parametrize("damage", DAMAGED_METRICS.values(), ids=DAMAGED_METRICS)
def test_damaged_metrics(small, damage):
    damage(small)
    with pytest.raises(CheckpointError, match=r"metrics\.json") as caught:
        read_metrics(small)
    assert_a_sentence(str(caught.value))
    assert {summary.name: summary.problem for summary in list_checkpoints()}["small"] == str(caught.value)


def test_a_history_forgets_lines_that_are_none(small):
    path = small / "history.jsonl"
    records, lines = read_history(small), path.read_text().splitlines()
    assert records
    assert len(records) == len(lines)
    bad = [b"", b"{", b"[]", b"7", b"null", b"{}", DEEP, b"\xff\xfe", b'{"step": NaN}', lines[1][:40].encode()]
    bad += [lines[1].replace('"step": 1', f'"step": {value}').encode() for value in ('"a"', "null", "1e999", "NaN")]
    bad += [lines[1].replace('"kl": ', '"kl": "a", "kl2": ').encode()]
    path.write_bytes(b"\n".join([*bad, *(line.encode() for line in lines), *bad]))
    assert read_history(small) == records
    path.unlink()
    assert read_history(small) == []
    path.mkdir()
    with pytest.raises(CheckpointError, match="history"):
        read_history(small)


# Those that ship


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_a_shipped_checkpoint_is_what_its_figures_say(name):
    """The map opens from these without the data; where the data is here, the figures are measured again."""
    folder = SHIPPED_ROOT / name
    model, latents, metrics = load_model(folder), load_latents(folder), read_metrics(folder)
    assert len(latents.mu) == metrics.n_images
    assert metrics.elbo == pytest.approx(-(metrics.recon_loss + metrics.kl))
    assert kl_per_dim(latents.mu, latents.logvar).sum(1).mean().item() == pytest.approx(metrics.kl, rel=1e-3)
    assert read_history(folder)[-1].epoch == metrics.epochs
    training = read_config(folder)[1]
    if not data.is_present(training.dataset):
        pytest.skip(f"{training.dataset} is not in LATENTARIUM_DATA, and tests fetch nothing; the rest was checked")
    terms = held_out_elbo(model, data.load_targets(training.dataset, "held_out", training.targets).images)
    assert -terms.loss == pytest.approx(metrics.elbo, abs=0.01)


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_the_figures_of_what_ships_are_of_its_weights(name):
    """The Evaluate page shows them where nobody may measure, as on a public screen."""
    figures, metrics = read_figures(name), read_metrics(SHIPPED_ROOT / name)
    assert figures
    assert figures["elbo"] == pytest.approx(metrics.elbo, abs=0.01)
    assert figures["nll"] < -metrics.elbo


def test_what_ships_is_small():
    sizes = {name: sum(path.stat().st_size for path in (SHIPPED_ROOT / name).iterdir()) for name in SHIPPED_NAMES}
    of_the_paper = sizes.pop("mnist-vae-50")  # 50 dimensions, in full precision, for its figure is one of a paper's
    bound = sizes.pop("mnist-iwae-50")  # 50 dimensions and the film of 1,250 epochs
    largest = sizes.pop("mnist-conv-iwae")  # 3.3 million weights
    assert sum(sizes.values()) < 15e6
    assert of_the_paper < 9e6
    assert bound < 6e6
    assert largest < 12e6


# Names


@pytest.mark.parametrize("name", ["mnist-2d", "a", "7", "A.b_c-d", "a" * 64, "console", "community"])
def test_names(name):
    check_name(name)


BAD_NAMES = ["", ".", "..", "a/b", "../a", "/etc", "a\\b", "a b", "-a", ".a", "_a", "a.", "a" * 65, "a\n", "ä", "a\0"]
BAD_NAMES += ["con", "NUL.txt", "com1", None, 7, ["a"]]


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(name):
    with pytest.raises(ConfigError, match="up to 64 letters") as caught:
        check_name(name)
    assert caught.value.field == "name"
    with pytest.raises(CheckpointError, match="can't be a name"):
        find(name)


def test_a_name_that_nobody_has(checkpoints):
    with pytest.raises(CheckpointError, match="python -m vae list"):
        find("nobody")
    (checkpoints / "a-file").touch()
    with pytest.raises(CheckpointError, match="python -m vae list"):
        find("a-file")


def test_the_users_own_come_before_those_that_ship(small, monkeypatch, tmp_path):
    shipped = tmp_path / "shipped"
    shutil.copytree(small, shipped / "small")
    shutil.copytree(small, shipped / "other")
    monkeypatch.setattr("vae.checkpoint.SHIPPED_ROOT", shipped)
    assert find("small") == small
    assert find("other") == shipped / "other"
    assert [summary.name for summary in list_checkpoints()] == ["other", "small"]


# The list


def test_the_list_tells_what_can_be_opened(small, checkpoints):
    shutil.copytree(small, checkpoints / "young", ignore=shutil.ignore_patterns("*.safetensors"))
    (checkpoints / "empty").mkdir()
    (checkpoints / ".hidden").mkdir()
    (checkpoints / "README.md").touch()
    summaries = {summary.name: summary for summary in list_checkpoints()}
    assert not {".hidden", "README.md"} & summaries.keys()
    assert summaries["small"].problem is None
    assert summaries["small"].metrics == read_metrics(small)
    assert (summaries["small"].model, summaries["small"].training) == (SMALL_MODEL, SMALL_TRAINING)
    assert summaries["young"].problem == "young has no weights yet."
    assert "config.json: it is missing" in str(summaries["empty"].problem)


def test_a_root_that_is_missing_or_no_folder_lists_nothing(tmp_path):
    assert checkpoint_folders(tmp_path / "missing") == []
    (tmp_path / "file").touch()
    assert checkpoint_folders(tmp_path / "file") == []


# Whole or not at all


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    write_atomically(dict.fromkeys(paths, b"old"))
    with files_up_to(1000), pytest.raises(OSError, match="File too large"):
        write_atomically({paths[0]: b"new", paths[1]: bytes(2000)})
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}
    write_atomically({paths[0]: b"new", paths[1]: bytes(2000)})
    assert contents(tmp_path) == {"a": b"new", "b": bytes(2000)}


def test_a_rename_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_atomically({path: b"new"})
    assert contents(tmp_path) == {"a": b"old"}


def test_a_full_disk_leaves_the_checkpoint_as_it_was(small, results):
    before = contents(small)
    with files_up_to(10_000), pytest.raises(OSError, match="File too large"):
        save_results(small, *results, half=False)
    assert contents(small) == before
    load_model(small)


def test_others_may_read_what_is_written(tmp_path):
    write_atomically({tmp_path / "a": b""})
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_settings_of_every_kind_are_kept(tmp_path):
    model = ModelConfig((1, 28, 28), "conv", (4, 8), (16,), 5, "tanh", "gaussian", 0.25)
    training = TrainConfig("shapes", 3, 32, 1e-3, "linear", 4, 7, "cpu", 2, True)
    save_config(tmp_path, model, training)
    assert read_config(tmp_path) == (model, training)
