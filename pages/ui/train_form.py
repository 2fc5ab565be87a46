"""The settings of a training run; the defaults are those of the config's dataclasses."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import streamlit as st

from pages.ui import visitor
from pages.ui.runs_table import LIKELIHOOD_TITLES
from vae import processes, runs
from vae.checkpoint import check_name, list_checkpoints
from vae.config import (
    ACTIVATIONS,
    BETA_SCHEDULES,
    CORRUPTIONS,
    LIKELIHOODS,
    NETWORKS,
    OBJECTIVES,
    SCALES,
    SCHEDULES,
    TARGETS,
    ConfigError,
    ModelConfig,
    TrainConfig,
)
from vae.data import DATASETS, dataset_info
from vae.families import FAMILIES, Family, family_of
from vae.processes import RunError

MODEL = {field.name: field.default for field in fields(ModelConfig)}
TRAINING = {field.name: field.default for field in fields(TrainConfig)}
# A small data set has few steps in an epoch: enough epochs for the curve to flatten.
DEFAULTS = {**MODEL, **TRAINING}
EPOCHS = {"digits": 100, "shapes": 30}
WIDTHS = {"mlp": "512, 256", "conv": "256"}
NETWORK_TITLES = {"mlp": "MLP (dense layers)", "conv": "convolutional"}
ACTIVATION_TITLES = {"gelu": "GELU", "relu": "ReLU", "tanh": "tanh"}
SCALE_TITLES = {
    "fixed": "fixed",
    "learned": "learned, one for all pixels",
    "per_pixel": "of each pixel, by the decoder",
}
OBJECTIVE_TITLES = {
    "elbo": "ELBO: KL from the prior",
    "iwae": "importance-weighted bound",
    "capacity": "KL held at a capacity",
    "tcvae": "total correlation weighs β",
    "mmd_rbf": "MMD from the prior, RBF kernel",
    "mmd_imq": "MMD from the prior, inverse multiquadratic",
    "sliced_wasserstein": "sliced Wasserstein distance from the prior",
    "energy": "energy distance from the prior",
    "reconstruction": "reconstruction alone",
    "l1": "L1 penalty of the code",
    "l2": "L2 penalty of the code",
    "sparse": "sparse: mean activation ρ",
    "contractive": "contractive: Jacobian of the encoder",
    "vq": "codebook",
}
BETA_TITLES = {
    "elbo": "β, the weight of the KL",
    "capacity": "β, the weight of |KL − C|",
    "tcvae": "β, the weight of the total correlation",
}
TARGET_TITLES = {"grey": "grey values", "static": "binarized once", "dynamic": "binarized at each visit"}
CORRUPTION_TITLES = {name: name.replace("_", " ") for name in CORRUPTIONS}
WITHOUT_BETA = ("iwae", "reconstruction")
BETA_SCHEDULE_TITLES = {"constant": "constant", "warmup": "warm-up", "cyclical": "cyclical"}
EXPLANATION = """
- **Family**: a kind of autoencoder, with settings that make it so; each may be changed below.
- **Network**: the encoder turns an image into mu and logvar, the decoder turns z into an image and mirrors the encoder.
  Widths and channels are listed from image to code; each convolutional layer halves the sides of the picture. The
  **activation** follows each layer but the last.
- **Latent dimensions**: two make a map that loses nothing; more draw sharper pictures.
- **Likelihood**: how a pixel's error counts. *Bernoulli* takes grey values for probabilities, *continuous Bernoulli*
  is a density over them; *Gaussian* counts squared error over 2σ², *Laplace* the error over σ, on the scale 0 to 1: the
  smaller σ, the more the picture weighs. σ is fixed, learned, or given by the decoder for each pixel.
- **Objective**: what the loss has beside the reconstruction. With the ELBO it is reconstruction + β · KL; at β = 1
  the negative ELBO, and a larger β tidies latent space and blurs pictures.
- **Epochs** are passes over the training images, a **batch** is the images of one step, and the **learning rate** is
  Adam's at the start.
- **Rate over time**: the learning rate falls to 0 along half a *cosine* (Loshchilov & Hutter, arXiv:1608.03983), along
  a line if *linear*, or stays *constant*.
- **β over time**: *warm-up* lets the KL weigh nothing at first and everything after some epochs (Bowman et al.,
  arXiv:1511.06349; Sønderby et al., arXiv:1602.02282), so that the decoder learns to use z before the KL presses it
  flat. *Cyclical* does so again and again (Fu et al., arXiv:1903.10145): in each cycle β rises for one half and stays
  for the other.
- **Free bits**: so many nats of each dimension's KL, averaged over a batch, cost nothing (Kingma et al.,
  arXiv:1606.04934), so no dimension is pressed below them. At 0 all of the KL counts.
- **Targets**: what is reconstructed: grey values, or black and white drawn from them, once or anew at each visit.
- **Corruption**: the encoder sees an image with noise, or with a share of its pixels black (masking) or black and white
  (salt and pepper); the loss compares with the clean one.
- **Dropout**: the share of hidden units that a step leaves out.
- **Class left out**: not trained on; `python -m vae evaluate` then says how well it is told as an anomaly.
- **Seed**: the same seed and settings give the same model on the same processor.
"""
# A page switch keeps what was typed.
selectbox, text_input, number_input = (
    partial(widget, persist_state="session") for widget in (st.selectbox, st.text_input, st.number_input)
)


def train_form() -> None:
    """Shows the settings; a press of the button starts a run and shows it."""
    if not runs.active_runs():
        processes.warm_up()  # while one still thinks about the settings
    dataset = selectbox("Data", list(DATASETS), format_func=lambda name: DATASETS[name].title, key="train-dataset")
    st.caption(DATASETS[dataset].about)
    family = _pick_family()
    try:
        model, training = _settings(dataset, family)
        problem = None
    except ConfigError as error:
        model, training, problem = None, None, str(error)
    if st.session_state.pop("name was used", False):
        st.session_state["train-name"] = ""
    name = text_input(
        "Name", key="train-name", placeholder=f"{_free_name(dataset, model)} (if left empty)", max_chars=64
    ) or _free_name(dataset, model)  # fmt: skip
    if problem:
        st.error(problem)
    is_known = visitor.mode() != "class" or visitor.owner()  # for a moment, at a browser's first visit, it is not
    is_ready = bool(model and training and is_known)
    if st.button("Start training", type="primary", disabled=not is_ready, width="stretch"):
        _start(name, model, training)
    with st.expander("What the settings do"):
        st.markdown(EXPLANATION)


def _pick_family() -> Family:
    """What kind of autoencoder; its explanation stands below. Another choice brings its own settings."""
    name = selectbox(
        "Family", list(FAMILIES), format_func=lambda name: FAMILIES[name].title, key="train-family",
        on_change=_take_family,
    )  # fmt: skip
    family = FAMILIES[name]
    st.caption(f"{family.about} *{family.source}*")
    return family


def _take_family() -> None:
    family = FAMILIES[st.session_state["train-family"]]
    for name in FORM_KEYS:
        default = {**MODEL, **TRAINING, **family.settings}[name]
        st.session_state[f"train-{name}"] = float(default) if isinstance(default, float) else default


# Settings whose place in the form is `train-NAME`, and that come with a family.
FORM_KEYS = (
    "latent_dim", "likelihood", "scale", "sigma", "n_symbols", "symbol_dim", "dropout", "targets", "objective",
    "n_samples", "beta", "beta_schedule", "warmup_epochs", "n_cycles", "free_bits", "capacity", "rho", "corruption",
    "corruption_level", "labelled_share", "label_weight", "left_out_class",
)  # fmt: skip


def fill_form(model: ModelConfig, training: TrainConfig) -> None:
    """Puts a run's settings into the form, for the next time it is shown; the name is left open."""
    dataset = training.dataset
    chosen = {**vars(model), **vars(training)}
    settings = {
        "dataset": dataset,
        "name": "",
        "family": family_of(model, training),
        "network": model.network,
        f"widths-{model.network}": ", ".join(map(str, model.widths)),
        "activation": model.activation,
        f"epochs-{dataset}": training.epochs,
        "lr": float(training.learning_rate),
        "schedule": training.schedule,
        "batch": training.batch_size,
        "seed": training.seed,
    }
    settings |= {name: float(chosen[name]) if isinstance(DEFAULTS[name], float) else chosen[name] for name in FORM_KEYS}
    if model.network == "conv":  # of another network, what stands in the form may be wanted yet
        settings["channels"] = ", ".join(map(str, model.channels))
    for name, value in settings.items():
        st.session_state[f"train-{name}"] = value


def _settings(dataset: str, family: Family) -> tuple[ModelConfig, TrainConfig]:
    """What the form asks for. Raises ConfigError if that can't work."""
    defaults = {**DEFAULTS, **family.settings}
    ask = partial(_ask, defaults)
    chosen: dict[str, Any] = {"dataset": dataset}
    chosen["network"] = selectbox("Network", NETWORKS, format_func=NETWORK_TITLES.get, key="train-network")
    problems: list[ConfigError] = []

    def integers(field: str, label: str, default: str, key: str) -> None:
        try:
            chosen[field] = _integers(field, text_input(label, default, key=key))
        except ConfigError as error:
            problems.append(error)  # once all of the form is shown

    if chosen["network"] == "conv":
        integers("channels", "Channels, image to code", "16, 32", "train-channels")
    else:
        chosen["channels"] = ()
    widths = WIDTHS[chosen["network"]]
    integers("widths", "Dense widths, image to code", widths, f"train-widths-{chosen['network']}")
    chosen["activation"] = selectbox(
        "Activation", ACTIVATIONS, format_func=ACTIVATION_TITLES.get, key="train-activation"
    )
    chosen["latent_dim"] = ask("latent_dim", "Latent dimensions", step=1)
    if defaults["latent"] == "codebook":
        chosen["n_symbols"] = ask("n_symbols", "Symbols in the codebook", step=16)
        chosen["symbol_dim"] = ask("symbol_dim", "Dimensions of a symbol", step=1)
    chosen["likelihood"] = _choose(defaults, "likelihood", "Likelihood", LIKELIHOODS, LIKELIHOOD_TITLES)
    if chosen["likelihood"] in ("gaussian", "laplace"):
        chosen["scale"] = _choose(defaults, "scale", "Scale σ", SCALES, SCALE_TITLES)
        label = "σ of the Gaussian" if chosen["likelihood"] == "gaussian" else "σ of the Laplace density"
        chosen["sigma"] = ask("sigma", label if chosen["scale"] == "fixed" else f"{label}, at first", step=0.05)
    else:
        chosen["scale"] = "fixed"
    fitting = OBJECTIVES[defaults["latent"]]
    chosen["objective"] = fitting[0]
    if len(fitting) > 1:
        chosen["objective"] = _choose(defaults, "objective", "Objective", fitting, OBJECTIVE_TITLES)
    chosen |= _objective_settings(defaults, chosen["objective"])
    chosen |= _steps(dataset)
    with st.expander("Over time, data, dropout"):
        chosen |= _schedules(defaults, chosen["objective"])
        chosen |= _data_settings(defaults, dataset)
    if problems:
        raise problems[0]
    model, training = family.configs(chosen)
    n_train = dataset_info(dataset).n_train
    if training.batch_size > n_train:
        raise ConfigError("batch_size", f"{training.batch_size:,} was given; {dataset} has {n_train:,} training images")
    return model, training


def _ask(defaults: dict[str, Any], name: str, label: str, **options: Any) -> Any:
    """A number of the form."""
    if isinstance(defaults[name], float):
        options["format"] = "%g"
    return number_input(label, value=defaults[name], key=f"train-{name}", **options)


def _choose(defaults: dict[str, Any], name: str, label: str, options: Any, titles: dict[str, str]) -> str:
    key = f"train-{name}"
    if st.session_state.get(key) not in options:  # of another family
        st.session_state[key] = defaults[name] if defaults[name] in options else options[0]
    return selectbox(label, options, format_func=titles.get, key=key)


def _objective_settings(defaults: dict[str, Any], objective: str) -> dict[str, Any]:
    """The numbers that an objective has."""
    ask = partial(_ask, defaults)
    chosen: dict[str, Any] = {}
    if objective == "sparse":
        chosen["code_activation"] = "sigmoid"
        chosen["rho"] = ask("rho", "ρ, the mean activation", step=0.01)
    if objective == "iwae":
        chosen["n_samples"] = ask("n_samples", "k, draws of z for each image", step=5)
    if objective == "capacity":
        chosen["capacity"] = ask("capacity", "Capacity in the end, nats", step=5.0)
    if objective in WITHOUT_BETA:
        return chosen | {"beta": 1.0}
    return chosen | {"beta": ask("beta", BETA_TITLES.get(objective, "β, the weight of the penalty"), step=0.5)}


def _steps(dataset: str) -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        epochs = number_input(
            "Epochs", value=EPOCHS.get(dataset, TRAINING["epochs"]), step=1, key=f"train-epochs-{dataset}"
        )
        learning_rate = number_input(
            "Learning rate", value=TRAINING["learning_rate"], step=0.0005, format="%g", key="train-lr"
        )
    with right:
        batch_size = number_input("Batch", value=TRAINING["batch_size"], step=32, key="train-batch")
        seed = number_input("Seed", value=TRAINING["seed"], step=1, key="train-seed")
    return {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}


def _schedules(defaults: dict[str, Any], objective: str) -> dict[str, Any]:
    ask = partial(_ask, defaults)
    chosen: dict[str, Any] = {
        "schedule": selectbox("Rate over time", SCHEDULES, key="train-schedule"),
        "free_bits": 0.0,
    }
    if objective not in WITHOUT_BETA:
        chosen["beta_schedule"] = _choose(
            defaults, "beta_schedule", "β over time", BETA_SCHEDULES, BETA_SCHEDULE_TITLES
        )
        if chosen["beta_schedule"] == "warmup":
            chosen["warmup_epochs"] = ask("warmup_epochs", "Length of the warm-up", step=1.0)
        if chosen["beta_schedule"] == "cyclical":
            chosen["n_cycles"] = ask("n_cycles", "Cycles", step=1)
    if objective == "elbo":
        chosen["free_bits"] = ask("free_bits", "Free bits, nats for each dimension", step=0.1)
    return chosen


def _data_settings(defaults: dict[str, Any], dataset: str) -> dict[str, Any]:
    ask = partial(_ask, defaults)
    chosen: dict[str, Any] = {"targets": _choose(defaults, "targets", "Targets", TARGETS, TARGET_TITLES)}
    chosen["corruption"] = _choose(defaults, "corruption", "Corruption of the input", CORRUPTIONS, CORRUPTION_TITLES)
    if chosen["corruption"] != "none":
        chosen["corruption_level"] = ask("corruption_level", "Level of the corruption", step=0.1)
    if defaults["labels"] == "predicted":
        chosen["labelled_share"] = ask("labelled_share", "Share of the images with labels", step=0.01)
        chosen["label_weight"] = ask("label_weight", "Weight of the labels", step=10.0)
    chosen["dropout"] = ask("dropout", "Dropout", step=0.1)
    names = dataset_info(dataset).class_names
    chosen["left_out_class"] = selectbox(
        "Class left out of training", range(-1, len(names)), key="train-left_out_class",
        format_func=lambda label: "none" if label < 0 else names[label],
    )  # fmt: skip
    return chosen


def _integers(field: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(field, f"{text!r} was given; use whole numbers with commas, as 512, 256") from error


def _free_name(dataset: str, model: ModelConfig | None) -> str:
    base = f"{dataset}-{model.latent_dim}d" if model else dataset
    taken = {summary.name for summary in list_checkpoints()}
    return next(name for i in range(1, 10_000) if (name := f"{base}-{i}") not in taken)


def _start(name: str, model: ModelConfig, training: TrainConfig) -> None:
    try:
        check_name(name)
        runs.start(name, model, training, visitor.owner())
    except (ConfigError, RunError) as error:
        st.error(str(error))
        return
    st.session_state["run to show"] = name
    st.session_state["name was used"] = True
    st.toast(f"{name} has started.")  # on a narrow screen its curves lie below
    st.rerun()
