"""The settings of a training run; the defaults are those of the config's dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.ui import visitor
from pages.ui.runs_table import LIKELIHOOD_TITLES
from vae import processes, runs
from vae.checkpoint import check_name, list_checkpoints
from vae.config import (
    ACTIVATIONS,
    BETA_SCHEDULES,
    CODE_ACTIVATIONS,
    CORRUPTIONS,
    DISTANCES,
    LABELS,
    LIKELIHOODS,
    NETWORKS,
    OBJECTIVES,
    SCALES,
    SCHEDULES,
    TARGETS,
    WITHOUT_BETA,
    WITHOUT_SCHEDULE,
    ConfigError,
    ModelConfig,
    TrainConfig,
)
from vae.data import DATASETS, dataset_info
from vae.families import FAMILIES, Family, family_of
from vae.objectives import MAX_EXACT_JACOBIAN
from vae.processes import RunError

MODEL = {field.name: field.default for field in fields(ModelConfig)}
TRAINING = {field.name: field.default for field in fields(TrainConfig)}
DEFAULTS = {**MODEL, **TRAINING}
# A small data set has few steps in an epoch: enough epochs for the curve to flatten.
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
CODE_TITLES = {"none": "any numbers", "sigmoid": "between 0 and 1, by a sigmoid"}
LABELS_TITLES = {
    "unused": "not used",
    "given": "given to encoder and decoder",
    "predicted": "predicted from the code",
}
TARGET_TITLES = {"grey": "grey values", "static": "binarized once", "dynamic": "binarized at each visit"}
CORRUPTION_TITLES = {name: name.replace("_", " ") for name in CORRUPTIONS}
BETA_SCHEDULE_TITLES = {"constant": "constant", "warmup": "warm-up", "cyclical": "cyclical"}
EXPLANATION = """
- **Family**: a kind of autoencoder, with settings that make it so; each may be changed below.
- **Network**: the encoder turns an image into its code, a VAE's into mu and logvar; the decoder turns z into an image
  and mirrors the encoder. Widths and channels are listed from image to code; each convolutional layer halves the sides
  of the picture. The **activation** follows each layer but the last.
- **Latent dimensions**: two make a map that loses nothing; more draw sharper pictures.
- **Likelihood**: how a pixel's error counts. *Bernoulli* takes grey values for probabilities, *continuous Bernoulli*
  is a density over them; *Gaussian* counts squared error over 2σ², *Laplace* the error over σ, on the scale 0 to 1: the
  smaller σ, the more the picture weighs. σ is fixed, learned, or given by the decoder for each pixel.
- **Objective**: what the loss has beside the reconstruction. With the ELBO it is reconstruction + β · KL; at β = 1
  the negative ELBO, and a larger β tidies latent space and blurs pictures.
- **The code's values**, where a code is a point: any numbers, or bounded by a sigmoid, as a sparse autoencoder's are.
- **Epochs** are passes over the training images, a **batch** is the images of one step, and the **learning rate** is
  Adam's at the start.
- **Rate over time**: the learning rate falls to 0 along half a *cosine* (Loshchilov & Hutter, arXiv:1608.03983), along
  a line if *linear*, or stays *constant*.
- **β over time**: *warm-up* lets the KL, or what stands in its place, weigh nothing at first and everything after some
  epochs (Bowman et al., arXiv:1511.06349; Sønderby et al., arXiv:1602.02282), so that the decoder learns to use z
  before the KL presses it flat. *Cyclical* does so again and again (Fu et al., arXiv:1903.10145): in each cycle β rises
  for one half and stays for the other.
- **Free bits**: so many nats of each dimension's KL, averaged over a batch, cost nothing (Kingma et al.,
  arXiv:1606.04934), so no dimension is pressed below them. At 0 all of the KL counts.
- **Targets**: what is reconstructed: grey values, or black and white drawn from them, once or anew at each visit.
- **Labels**: the classes may be given to encoder and decoder, so that the code need not hold them, or be predicted from
  the code by a linear classifier that learns with it.
- **Corruption**: the encoder sees an image with noise, or with a share of its pixels black (masking) or black and white
  (salt and pepper); the loss compares with the clean one.
- **Dropout**: the share of the units of hidden dense layers that a step leaves out.
- **Class left out**: not trained on; the Evaluate page then says how well it is told as an anomaly.
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
    model, training = _settings(dataset, family)
    if st.session_state.pop("name was used", False):
        st.session_state["train-name"] = ""
    name = text_input(
        "Name", key="train-name", placeholder=f"{_free_name(dataset, model)} (if left empty)", max_chars=64
    ) or _free_name(dataset, model)  # fmt: skip
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
        default = {**DEFAULTS, **family.settings}[name]
        st.session_state[f"train-{name}"] = float(default) if isinstance(default, float) else default


# Settings whose place in the form is `train-NAME`, and that come with a family.
FORM_KEYS = (
    "latent_dim", "code_activation", "labels", "likelihood", "scale", "sigma", "n_symbols", "symbol_dim", "dropout",
    "targets", "objective", "n_samples", "beta", "beta_schedule", "warmup_epochs", "n_cycles", "free_bits", "capacity",
    "rho", "corruption", "corruption_level", "labelled_share", "label_weight", "left_out_class",
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


class _Form:
    """The fields of the form: what was chosen in each, and a place below each for what is wrong with it."""

    def __init__(self, defaults: dict[str, Any]):
        self.defaults = defaults
        self.chosen: dict[str, Any] = {}
        self.places: dict[str, DeltaGenerator] = {}
        self.is_sound = True

    def number(self, name: str, label: str, step: float, key: str = "", default: float | None = None) -> None:
        key, default = key or f"train-{name}", self.defaults[name] if default is None else default
        options = {"format": "%g"} if isinstance(default, float) else {}
        if key not in st.session_state:
            options["value"] = default
        self.chosen[name] = number_input(label, step=step, key=key, **options)
        self.places[name] = st.empty()

    def choice(self, name: str, label: str, options: Sequence[Any], titles: Callable[[Any], str] = str) -> Any:
        key = f"train-{name}"
        if st.session_state.get(key) not in options:  # at first, or of another family
            st.session_state[key] = self.defaults[name] if self.defaults[name] in options else options[0]
        self.chosen[name] = selectbox(label, options, format_func=titles, key=key)
        self.places[name] = st.empty()
        return self.chosen[name]

    def integers(self, name: str, label: str, default: str, key: str) -> None:
        text = text_input(label, default, key=key)
        self.places[name] = st.empty()
        try:
            self.chosen[name] = tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            self.complain(ConfigError(name, f"{text!r} was given; use whole numbers with commas, as 512, 256"))

    def complain(self, error: ConfigError) -> None:
        """Says what is wrong below the field at fault; where that has no place in the form, here."""
        self.places.get(error.field, st).error(str(error))
        self.is_sound = False


def _settings(dataset: str, family: Family) -> tuple[ModelConfig, TrainConfig] | tuple[None, None]:
    """What the form asks for; None where that can't work, which it says."""
    form = _Form({**DEFAULTS, **family.settings})
    _ask_network(form)
    _ask_likelihood(form)
    _ask_objective(form)
    _ask_steps(form, dataset)
    in_sight = set(form.places)
    with st.expander("Over time, data, dropout"):
        _ask_schedules(form)
        _ask_data(form, dataset_info(dataset).class_names)
    if form.is_sound:
        try:
            model, training = family.configs({"dataset": dataset, **form.chosen})
            runs.check_settings(model, training)
        except ConfigError as error:
            form.complain(error)
            if error.field in set(form.places) - in_sight:  # the expander may be closed
                st.error(str(error))
        else:
            return model, training
    return None, None


def _ask_network(form: _Form) -> None:
    network = form.choice("network", "Network", NETWORKS, NETWORK_TITLES.get)
    form.chosen["channels"] = ()
    if network == "conv":
        form.integers("channels", "Channels, image to code", "16, 32", "train-channels")
    form.integers("widths", "Dense widths, image to code", WIDTHS[network], f"train-widths-{network}")
    form.choice("activation", "Activation", ACTIVATIONS, ACTIVATION_TITLES.get)
    form.number("latent_dim", "Latent dimensions", 1)
    if form.defaults["latent"] == "codebook":
        form.number("n_symbols", "Symbols in the codebook", 16)
        form.number("symbol_dim", "Dimensions of a symbol", 1)


def _ask_likelihood(form: _Form) -> None:
    likelihood = form.choice("likelihood", "Likelihood", LIKELIHOODS, LIKELIHOOD_TITLES.get)
    form.chosen["scale"] = "fixed"
    if likelihood in ("gaussian", "laplace"):
        scale = form.choice("scale", "Scale σ", SCALES, SCALE_TITLES.get)
        density = "Gaussian" if likelihood == "gaussian" else "Laplace density"
        form.number("sigma", f"σ of the {density}{'' if scale == 'fixed' else ', at first'}", 0.05)


def _ask_objective(form: _Form) -> None:
    fitting = OBJECTIVES[form.defaults["latent"]]
    form.chosen["objective"] = fitting[0]
    if len(fitting) > 1:
        form.choice("objective", "Objective", fitting, OBJECTIVE_TITLES.get)
    objective = form.chosen["objective"]
    form.chosen["code_activation"] = "sigmoid" if objective == "sparse" else "none"
    if form.defaults["latent"] == "point" and objective not in ("sparse", *DISTANCES):
        form.choice("code_activation", "The code's values", CODE_ACTIVATIONS, CODE_TITLES.get)
    if objective == "sparse":
        form.number("rho", "ρ, the mean activation", 0.01)
    if objective == "iwae":
        form.number("n_samples", "k, draws of z for each image", 5)
    if objective == "capacity":
        form.number("capacity", "Capacity in the end, nats", 5.0)
    form.chosen["beta"] = 1.0
    if objective not in WITHOUT_BETA:
        form.number("beta", BETA_TITLES.get(objective, "β, the weight of the penalty"), 0.5)
    elif objective == "iwae":
        st.caption("The bound is one whole, so it has no weight β.")
    else:
        st.caption("Nothing stands beside the reconstruction, so there is no β; and without a prior, no KL.")
    if objective == "contractive":
        st.caption(f"Exact up to {MAX_EXACT_JACOBIAN} latent dimensions; beyond, estimated along random directions.")


def _ask_steps(form: _Form, dataset: str) -> None:
    left, right = st.columns(2)
    with left:
        epochs = EPOCHS.get(dataset, TRAINING["epochs"])
        form.number("epochs", "Epochs", 1, f"train-epochs-{dataset}", epochs)
        form.number("learning_rate", "Learning rate", 0.0005, "train-lr")
    with right:
        form.number("batch_size", "Batch", 32, "train-batch")
        form.number("seed", "Seed", 1)


def _ask_schedules(form: _Form) -> None:
    objective = form.chosen["objective"]
    form.choice("schedule", "Rate over time", SCHEDULES)
    form.chosen["beta_schedule"], form.chosen["free_bits"] = "constant", 0.0
    if objective not in WITHOUT_SCHEDULE:
        schedule = form.choice("beta_schedule", "β over time", BETA_SCHEDULES, BETA_SCHEDULE_TITLES.get)
        if schedule == "warmup":
            form.number("warmup_epochs", "Length of the warm-up", 1.0)
        if schedule == "cyclical":
            form.number("n_cycles", "Cycles", 1)
    if objective == "elbo":
        form.number("free_bits", "Free bits, nats for each dimension", 0.1)


def _ask_data(form: _Form, class_names: Sequence[str]) -> None:
    form.choice("targets", "Targets", TARGETS, TARGET_TITLES.get)
    if form.choice("corruption", "Corruption of the input", CORRUPTIONS, CORRUPTION_TITLES.get) != "none":
        form.number("corruption_level", "Level of the corruption", 0.1)
    fitting = [name for name in LABELS if name != "given" or form.defaults["latent"] != "codebook"]
    if form.choice("labels", "Labels", fitting, LABELS_TITLES.get) == "predicted":
        form.number("labelled_share", "Share of the images with labels", 0.01)
        form.number("label_weight", "Weight of the labels", 10.0)
    else:
        form.chosen["labelled_share"] = TRAINING["labelled_share"]
    form.number("dropout", "Dropout", 0.1)
    form.choice(
        "left_out_class", "Class left out of training", range(-1, len(class_names)),
        lambda label: "none" if label < 0 else class_names[label],
    )  # fmt: skip


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
