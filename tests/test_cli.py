"""`python -m vae`: JSON alone where asked, one sentence where something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from vae import data
from vae.__main__ import main
from vae.checkpoint import load_latents, load_model, read_config, read_history, read_metrics
from vae.data import DataError
from vae.evaluate import Evaluation

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["train", "--dataset", "digits", "--epochs", "2", "--widths", "32", "--threads", "1", "--device", "cpu"]
EVALUATE_KEYS = ["name", "dataset", *(field.name for field in fields(Evaluation))]
# What any model on digits has.
SAID = [key for key in EVALUATE_KEYS if key not in (
    "label_accuracy", "denoising_gain", "anomaly_auc", "symbol_usage", "symbols_in_use", "symbol_perplexity", "mig",
    "disentanglement", "completeness", "informativeness", "sigma", "optimal_sigma",
)]  # fmt: skip

pytestmark = pytest.mark.usefixtures("checkpoints")


@pytest.fixture(autouse=True)
def _same_signals_after() -> Iterator[None]:
    """Training in this process takes Ctrl-C for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def vae_command(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "vae", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python -m vae`, in this process."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# As a command


def test_train_evaluate_and_list_as_commands(checkpoints):
    """The commands that DESIGN.md names, each in a process of its own."""
    options = "--dataset digits --latent-dim 2 --epochs 5 --name demo --json"
    command = vae_command("train", *options.split())
    out, err = command.communicate(timeout=300)
    assert command.returncode == 0
    trained = json.loads(out)  # nothing else is there
    assert (trained["name"], trained["dataset"], trained["n_images"], trained["epochs"]) == ("demo", "digits", 300, 5)
    assert "100%" in err  # the progress bar

    evaluating, listing = vae_command("evaluate", "demo", "--json"), vae_command("list", "--json")
    evaluated = json.loads(evaluating.communicate(timeout=300)[0])
    assert evaluating.returncode == 0
    assert list(evaluated) == EVALUATE_KEYS
    assert evaluated["elbo"] == pytest.approx(trained["elbo"])
    assert evaluated["elbo"] == pytest.approx(-(evaluated["recon_loss"] + evaluated["kl"]))
    assert evaluated["nll"] < -evaluated["elbo"]

    rows = {row["name"]: row for row in json.loads(listing.communicate(timeout=300)[0])}
    assert listing.returncode == 0
    assert rows["demo"] == {
        "name": "demo", "dataset": "digits", "network": "mlp", "latent_dim": 2, "likelihood": "bernoulli", "beta": 1.0,
        "epochs": 5, "elbo": trained["elbo"], "recon_loss": trained["recon_loss"], "state": "finished", "problem": None,
    }  # fmt: skip
    load_latents(checkpoints / "demo")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_learnt(checkpoints, number):
    command = vae_command(*TRAIN, "--epochs", "100000", "--name", "demo", "--json")
    deadline = time.monotonic() + 120
    while len(read_history(checkpoints / "demo")) < 2:
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(number)
    out, err = command.communicate(timeout=120)
    assert command.returncode == 0
    assert "Traceback" not in err
    assert 0 < json.loads(out)["epochs"] < 100_000
    load_model(checkpoints / "demo")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["evaluate", "nobody"], 1),
        ([*TRAIN, "--name", "a/b"], 1),
        ([*TRAIN, "--widths", "a,b", "--name", "demo"], 2),
    ],
)
def test_bad_input_to_the_command(arguments, code):
    command = vae_command(*arguments)
    out, err = command.communicate(timeout=300)
    assert command.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"python -m vae {arguments[0]}: ")


# In this process, which saves the seconds that importing torch takes


def test_train_prints_json_alone(capsys, checkpoints):
    code, out, _ = run(capsys, *TRAIN, "--name", "demo", "--json")
    assert code == 0
    metrics = read_metrics(checkpoints / "demo")
    assert json.loads(out) == {"name": "demo", "dataset": "digits", **vars(metrics)}


def test_train_prints_a_sentence(capsys, checkpoints):
    code, out, _ = run(capsys, *TRAIN, "--name", "demo")
    metrics = read_metrics(checkpoints / "demo")
    assert code == 0
    assert out.startswith(f"demo: held-out ELBO {metrics.elbo:.2f} = -(reconstruction {metrics.recon_loss:.2f} + KL ")
    assert str(checkpoints / "demo") in out


def test_every_option_of_train_arrives(capsys, checkpoints):
    options = (
        "--dataset digits --name demo --network conv --channels 4,8 --widths 16 --latent-dim 3 --activation tanh "
        "--likelihood gaussian --sigma 0.5 --beta 2 --epochs 1 --batch-size 50 --learning-rate 0.01 --schedule linear "
        "--seed 9 --device cpu --threads 1 --half --beta-schedule cyclical --warmup-epochs 2.5 --n-cycles 3 "
        "--free-bits 0.1 --scale learned --n-symbols 32 --symbol-dim 3 --labels predicted --dropout 0.1 "
        "--targets static "
        "--objective elbo --n-samples 3 --capacity 9 --rho 0.2 --corruption masking --corruption-level 0.1 "
        "--left-out-class 4 --labelled-share 0.5 --label-weight 7"
    )
    assert run(capsys, "train", *options.split())[0] == 0
    model, training = read_config(checkpoints / "demo")
    assert vars(model) == {
        "image_shape": (1, 8, 8), "network": "conv", "channels": (4, 8), "widths": (16,), "latent_dim": 3,
        "activation": "tanh", "likelihood": "gaussian", "sigma": 0.5, "scale": "learned", "latent": "gaussian",
        "code_activation": "none", "n_symbols": 32, "symbol_dim": 3, "labels": "predicted", "n_classes": 10,
        "dropout": 0.1,
    }  # fmt: skip
    assert vars(training) == {
        "dataset": "digits", "epochs": 1, "batch_size": 50, "learning_rate": 0.01, "schedule": "linear", "beta": 2.0,
        "seed": 9, "device": "cpu", "threads": 1, "half": True, "beta_schedule": "cyclical", "warmup_epochs": 2.5,
        "n_cycles": 3, "free_bits": 0.1, "targets": "static", "objective": "elbo", "n_samples": 3, "capacity": 9.0,
        "rho": 0.2, "corruption": "masking", "corruption_level": 0.1, "left_out_class": 4, "labelled_share": 0.5,
        "label_weight": 7.0,
    }  # fmt: skip


def test_defaults_are_the_configs_and_fit_the_network(capsys, checkpoints):
    assert run(capsys, *TRAIN[:5], "--network", "conv", "--name", "conv", "--threads", "1")[0] == 0
    model, training = read_config(checkpoints / "conv")
    assert (model.channels, model.widths) == ((16, 32), (256,))
    assert (training.learning_rate, training.seed, training.half) == (2e-3, 0, False)


def test_evaluate_without_importance_samples(capsys, small):
    code, out, _ = run(capsys, "evaluate", small.name, "--json", "--importance-samples", "0")
    figures = json.loads(out)
    assert code == 0
    assert list(figures) == EVALUATE_KEYS
    assert figures["nll"] is figures["nll_stderr"] is None


def test_evaluate_for_people(capsys, small):
    code, out, _ = run(capsys, "evaluate", small.name, "--importance-samples", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == SAID


@pytest.mark.usefixtures("small")
def test_evaluate_is_the_same_for_the_same_seed(capsys):
    first, again, other = (
        run(capsys, "evaluate", "small", "--json", "--importance-samples", "2", "--seed", seed)[1] for seed in "112"
    )
    assert first == again != other


def test_tsne(capsys, small):
    code, out, err = run(capsys, "tsne", small.name)
    assert (code, out) == (0, "")
    assert "100%" in err
    assert "tsne" in load_latents(small).embeddings


def test_list_for_people_names_what_is_wrong(capsys, small, checkpoints):
    (checkpoints / "broken").mkdir()
    code, out, _ = run(capsys, "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert f"held-out ELBO {read_metrics(small).elbo:.2f}" in lines["small"]
    assert "config.json: it is missing" in lines["broken"]


def test_one_damaged_run_does_not_hide_the_others(capsys, small, checkpoints):
    shutil.copytree(small, checkpoints / "other")
    (small / "run.json").write_text("{")
    (checkpoints / "other" / "metrics.json").write_text('{"elbo": 1' + 400 * "0" + "}")
    code, out, _ = run(capsys, "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert "run.json" in rows["small"]["problem"]
    assert "metrics.json" in rows["other"]["problem"]


# Bad input


def assert_one_sentence(result: tuple[int, str, str], verb: str) -> str:
    code, out, err = result
    assert code == 1
    assert out == ""
    *bar, line = err.splitlines()
    assert line.startswith(f"python -m vae {verb}: ")
    assert all("step/s" in line for line in bar if line)
    return line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--name a/b", "name: 'a/b' was given; use up to 64 letters"),
        ("--name ..", "name: '..' was given"),
        ("--name demo --dataset imagenet", "choose one of digits, shapes"),
        ("--name demo --epochs 0", "epochs: 0 was given; use a whole number from 1"),
        ("--name demo --batch-size 2000", "batch_size: 2,000 was given; digits has 1,497 training images"),
        ("--name demo --batch-size 0", "batch_size: 0 was given"),
        ("--name demo --learning-rate 0", "learning_rate: 0.0 was given; use a number above 0"),
        ("--name demo --learning-rate nan", "learning_rate: nan was given"),
        ("--name demo --learning-rate inf", "learning_rate: inf was given"),
        ("--name demo --latent-dim 0", "latent_dim: 0 was given"),
        ("--name demo --widths 0", "widths: 0 was given"),
        ("--name demo --channels 8", "an MLP has none"),
        ("--name demo --network conv --channels 4,8,16,32", "use fewer layers"),
        ("--name demo --sigma -1", "sigma: -1.0 was given"),
        ("--name demo --beta -1", "beta: -1.0 was given"),
        ("--name demo --seed -1", "seed: -1 was given"),
        (f"--name demo --seed 1{400 * '0'}", "seed: 1"),
        ("--name demo --learning-rate 1", "use a lower learning rate"),
    ],
)
def test_settings_that_cannot_work(capsys, options, part):
    assert part in assert_one_sentence(run(capsys, *TRAIN, *options.split()), "train")


def test_a_name_that_exists(capsys, small):
    line = assert_one_sentence(run(capsys, *TRAIN, "--name", "small"), "train")
    assert f"choose another, or delete {small}" in line


@pytest.mark.parametrize(
    "options",
    ["--name", "", "--name demo --widths a,b", "--name demo --epochs ten", "--name demo --network transformer",
     "--name demo --beta x", "--name demo --device tpu", "--name demo --colour red"],
)  # fmt: skip
def test_options_that_are_no_options(capsys, checkpoints, options):
    code, out, err = run(capsys, *TRAIN, *options.split())
    assert (code, out) == (2, "")
    usage, message = err.split(": error: ")
    assert usage.startswith("usage: python -m vae")
    assert len(message.splitlines()) == 1
    assert list(checkpoints.iterdir()) == []


@pytest.mark.parametrize("verb", ["evaluate", "tsne"])
@pytest.mark.parametrize("name", ["nobody", "..", "a/b", ""])
def test_a_checkpoint_that_is_not_there(capsys, verb, name):
    assert "There is no checkpoint" in assert_one_sentence(run(capsys, verb, name), verb)


@pytest.mark.parametrize("verb", ["evaluate", "tsne"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"[1]"])
def test_a_damaged_checkpoint(capsys, small, verb, content):
    (small / "config.json").write_bytes(content)
    assert "config.json" in assert_one_sentence(run(capsys, verb, "small"), verb)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("options", ["--importance-samples -1", "--importance-samples 100001", "--seed -1",
                                     f"--seed {2**64}"])  # fmt: skip
def test_figures_that_cannot_be(capsys, options):
    line = assert_one_sentence(run(capsys, "evaluate", "small", *options.split()), "evaluate")
    assert options.split()[0].strip("-") in line
    assert "use a whole number from 0" in line


@pytest.mark.usefixtures("small")
def test_data_that_cannot_be_had(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise DataError("MNIST could not be fetched.")

    monkeypatch.setattr(data, "load", fail)
    assert "could not be fetched" in assert_one_sentence(run(capsys, "evaluate", "small"), "evaluate")
    assert "could not be fetched" in assert_one_sentence(run(capsys, *TRAIN, "--name", "demo"), "train")


def test_weights_that_are_gone(capsys, small):
    (small / "model.safetensors").unlink()
    assert_one_sentence(run(capsys, "evaluate", "small"), "evaluate")


@pytest.mark.usefixtures("small")
def test_figures_that_cannot_be_kept_are_printed_all_the_same(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("vae.evaluations.write_json", fail)
    code, out, err = run(capsys, "evaluate", "small", "--json", "--importance-samples", "0")
    assert code == 0
    assert list(json.loads(out)) == EVALUATE_KEYS
    assert "Read-only file system" in err


def test_a_checkpoints_folder_that_is_a_file(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(tmp_path / "file"))
    line = assert_one_sentence(run(capsys, *TRAIN, "--name", "demo"), "train")
    assert "set LATENTARIUM_CHECKPOINTS to another folder" in line
    assert run(capsys, "list", "--json")[0] == 0
    assert os.path.isfile(tmp_path / "file")


def test_no_verb(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "train | resume | stop | evaluate | tsne | umap | list | rename | delete" in err
