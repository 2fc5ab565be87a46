"""The settings of a training run; the defaults are those of the config's dataclasses."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import streamlit as st

from pages.ui import visitor
from vae import processes, runs
from vae.checkpoint import check_name, list_checkpoints
from vae.config import (
    ACTIVATIONS,
    BETA_SCHEDULES,
    LIKELIHOODS,
    NETWORKS,
    SCHEDULES,
    ConfigError,
    ModelConfig,
    TrainConfig,
)
from vae.data import DATASETS, dataset_info
from vae.processes import RunError

MODEL = {field.name: field.default for field in fields(ModelConfig)}
TRAINING = {field.name: field.default for field in fields(TrainConfig)}
# A small data set has few steps in an epoch: enough epochs for the curve to flatten.
EPOCHS = {"digits": 100, "shapes": 30}
WIDTHS = {"mlp": "512, 256", "conv": "256"}
NETWORK_TITLES = {"mlp": "MLP (dense layers)", "conv": "convolutional"}
ACTIVATION_TITLES = {"gelu": "GELU", "relu": "ReLU", "tanh": "tanh"}
LIKELIHOOD_TITLES = {"bernoulli": "Bernoulli", "gaussian": "Gaussian"}
BETA_SCHEDULE_TITLES = {"constant": "constant", "warmup": "warm-up", "cyclical": "cyclical"}
EXPLANATION = """
- **Network**: the encoder turns an image into mu and logvar, the decoder turns z into an image and mirrors the encoder.
  Widths and channels are listed from image to code; each convolutional layer halves the sides of the picture. The
  **activation** follows each layer but the last.
- **Latent dimensions**: two make a map that loses nothing; more draw sharper pictures.
- **Likelihood**: how a pixel's error counts. *Bernoulli* takes grey values for probabilities; *Gaussian* counts
  squared error over 2σ², on the scale 0 to 1: the smaller σ, the more the picture weighs against the KL.
- **β**: the loss is reconstruction + β · KL. At 1 it is the negative ELBO; a larger β tidies latent space and blurs
  pictures.
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
    model, model_problem = _attempt(_model_settings, dataset)
    training, training_problem = _attempt(_training_settings, dataset)
    if st.session_state.pop("name was used", False):
        st.session_state["train-name"] = ""
    name = text_input(
        "Name", key="train-name", placeholder=f"{_free_name(dataset, model)} (if left empty)", max_chars=64
    ) or _free_name(dataset, model)  # fmt: skip
    if problem := model_problem or training_problem:
        st.error(problem)
    is_known = visitor.mode() != "class" or visitor.owner()  # for a moment, at a browser's first visit, it is not
    is_ready = bool(model and training and is_known)
    if st.button("Start training", type="primary", disabled=not is_ready, width="stretch"):
        _start(name, model, training)
    with st.expander("What the settings do"):
        st.markdown(EXPLANATION)


def fill_form(model: ModelConfig, training: TrainConfig) -> None:
    """Puts a run's settings into the form, for the next time it is shown; the name is left open."""
    dataset = training.dataset
    settings = {
        "dataset": dataset,
        "name": "",
        "network": model.network,
        f"widths-{model.network}": ", ".join(map(str, model.widths)),
        "activation": model.activation,
        "latent-dim": model.latent_dim,
        "likelihood": model.likelihood,
        "beta": float(training.beta),
        "beta-schedule": training.beta_schedule,
        "warmup": float(training.warmup_epochs),
        "cycles": training.n_cycles,
        "free-bits": float(training.free_bits),
        f"epochs-{dataset}": training.epochs,
        "lr": float(training.learning_rate),
        "schedule": training.schedule,
        "batch": training.batch_size,
        "seed": training.seed,
    }
    if model.network == "conv":  # of another network or likelihood, what stands in the form may be wanted yet
        settings["channels"] = ", ".join(map(str, model.channels))
    if model.likelihood == "gaussian":
        settings["sigma"] = float(model.sigma)
    for name, value in settings.items():
        st.session_state[f"train-{name}"] = value


def _attempt(ask: Any, dataset: str) -> tuple[Any, str | None]:
    """What the settings make, or the sentence that says why they can't work."""
    try:
        return ask(dataset), None
    except ConfigError as error:
        return None, str(error)


def _model_settings(dataset: str) -> ModelConfig:
    network = selectbox("Network", NETWORKS, format_func=NETWORK_TITLES.get, key="train-network")
    channels = ()
    if network == "conv":
        channels = _integers("channels", text_input("Channels, image to code", "16, 32", key="train-channels"))
    widths = _integers(
        "widths", text_input("Dense widths, image to code", WIDTHS[network], key=f"train-widths-{network}")
    )
    activation = selectbox("Activation", ACTIVATIONS, format_func=ACTIVATION_TITLES.get, key="train-activation")
    latent_dim = number_input("Latent dimensions", value=MODEL["latent_dim"], step=1, key="train-latent-dim")
    likelihood = selectbox("Likelihood", LIKELIHOODS, format_func=LIKELIHOOD_TITLES.get, key="train-likelihood")
    sigma = MODEL["sigma"]
    if likelihood == "gaussian":
        sigma = number_input("σ of the Gaussian", value=sigma, step=0.05, format="%g", key="train-sigma")
    return ModelConfig(
        image_shape=dataset_info(dataset).image_shape,
        network=network,
        channels=channels,
        widths=widths,
        latent_dim=latent_dim,
        activation=activation,
        likelihood=likelihood,
        sigma=sigma,
    )


def _training_settings(dataset: str) -> TrainConfig:
    beta = number_input("β, the weight of the KL", value=TRAINING["beta"], step=0.5, key="train-beta")
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
    with st.expander("Over time, and free bits"):
        over_time = _schedules()
    training = TrainConfig(
        dataset=dataset, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, beta=beta, seed=seed,
        **over_time,
    )  # fmt: skip
    n_train = dataset_info(dataset).n_train
    if batch_size > n_train:
        raise ConfigError("batch_size", f"{batch_size:,} was given; {dataset} has {n_train:,} training images")
    return training


def _schedules() -> dict[str, Any]:
    settings: dict[str, Any] = {
        "schedule": selectbox("Rate over time", SCHEDULES, key="train-schedule"),
        "beta_schedule": selectbox(
            "β over time", BETA_SCHEDULES, format_func=BETA_SCHEDULE_TITLES.get, key="train-beta-schedule"
        ),
    }
    if settings["beta_schedule"] == "warmup":
        settings["warmup_epochs"] = number_input(
            "Length of the warm-up", value=TRAINING["warmup_epochs"], step=1.0, format="%g", key="train-warmup"
        )
    if settings["beta_schedule"] == "cyclical":
        settings["n_cycles"] = number_input("Cycles", value=TRAINING["n_cycles"], step=1, key="train-cycles")
    settings["free_bits"] = number_input(
        "Free bits, nats for each dimension", value=TRAINING["free_bits"], step=0.1, format="%g", key="train-free-bits"
    )
    return settings


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
