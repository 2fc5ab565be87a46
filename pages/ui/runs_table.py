"""The table of all runs and checkpoints, from which some are chosen; it renews itself while a run is under way."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from pages.ui.models import show_problems
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import CheckpointError, find, read_history
from vae.config import WITHOUT_BETA
from vae.families import FAMILIES, family_of
from vae.processes import ACTIVE_STATES
from vae.runs import Run

LIKELIHOOD_TITLES = {
    "bernoulli": "Bernoulli",
    "continuous_bernoulli": "continuous Bernoulli",
    "gaussian": "Gaussian",
    "laplace": "Laplace",
}
REFRESH_SECONDS = 2
KEY = "runs table"
ROW_HEIGHT, MAX_ROWS = 35, 12  # CSS pixels; more rows scroll
NATS = "nats per image, mean over all held-out images"
AMONG = "higher is better, among runs of the same data, targets and likelihood"
_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
COLUMNS = {
    "name": _text("Name", pinned=True),
    "state": _text("State"),
    "epoch": _number("Epochs", format="%.4g", width=62, help="Trained so far"),
    "epochs": _number("of", width=50, help="Epochs in all"),
    "family": _text("Family"),
    "dataset": _text("Data"),
    "network": _text("Network", help="Layers from image to code; the last is the code"),
    "latent_dim": _number("D", width=42, help="Latent dimensions"),
    "beta": _number("β", format="%g", width=42, help="Weight of the KL in the loss, or of what stands in its place"),
    "elbo": _number("ELBO", format="%.2f", help=f"−(reconstruction + KL), {NATS}; {AMONG}"),
    "recon_loss": _number("Recon.", format="%.2f", help=f"Reconstruction, −log p(x|z), {NATS}"),
    "kl": _number("KL", format="%.2f", help=f"KL(q(z|x) ‖ p(z)), {NATS}"),
    "active_units": _number("Active", width=58, help="Latent dimensions in use"),
    "seconds": _number("Time, s", format="%.0f", width=62, help="Spent training, seconds"),
    "likelihood": _text("Likelihood"),
    "kl_terms": _text("Special", width="medium", help="Settings that only some objectives have"),
}


def pick_runs() -> list[Run]:
    """Shows the table; returns the chosen runs in the order in which they were chosen. The choice is in the URL as
    `?compare=`. Stops the page if there is nothing to choose from."""
    listed = runs.list_runs()
    show_problems([run.summary.problem for run in listed if run.summary.problem and run.summary.model is None])
    if not _readable(listed):
        st.info("Nothing has been trained here yet.")
        st.page_link("pages/train.py", label="Train a model", icon=":material/show_chart:")
        st.stop()
    st.session_state.pop("runs drawn", None)
    is_active = any(run.state in ACTIVE_STATES for run in listed)
    st.fragment(_show_table, run_every=REFRESH_SECONDS if is_active else None)()
    return _chosen_of(_readable(listed))


def choose(names: list[str]) -> None:
    """These are the chosen runs from the next time that the table is shown."""
    st.session_state["runs to choose"] = names


def _readable(listed: list[Run]) -> list[Run]:
    return [run for run in listed if run.summary.model and run.summary.training]


def _chosen_of(listed: list[Run]) -> list[Run]:
    by_name = {run.summary.name: run for run in listed}
    return [by_name[name] for name in st.session_state["runs chosen"] if name in by_name]


def _show_table() -> None:
    listed = _readable(runs.list_runs())
    if not listed:
        st.rerun()  # the last one was deleted elsewhere
    names = [run.summary.name for run in listed]
    _follow_choice(names)
    table = pd.DataFrame([_row(run) for run in listed])
    shown = [column for column in COLUMNS if column != "kl_terms" or table["kl_terms"].any()]
    st.dataframe(
        table, column_order=shown, column_config=COLUMNS, key=KEY, on_select="rerun", hide_index=True, placeholder="–",
        height=ROW_HEIGHT * (1 + min(len(table), MAX_ROWS)) + 2, row_height=ROW_HEIGHT,
    )  # fmt: skip
    # What stands below the table is of the page: drawn again once runs are chosen, or one begins or ends.
    now = (st.session_state["runs chosen"], [(run.summary.name, run.state) for run in listed])
    if st.session_state.setdefault("runs drawn", now) != now:
        st.rerun()


def _follow_choice(names: list[str]) -> None:
    """Brings the table's choice, which is of row numbers, and that of names together: runs come and go.

    names: of the rows that will be shown.
    """
    before = st.session_state.get("runs chosen", [])
    if "runs to choose" in st.session_state:
        chosen = st.session_state.pop("runs to choose")
    elif KEY in st.session_state:
        in_table = st.session_state["runs in table"]
        chosen = [in_table[row] for row in st.session_state[KEY]["selection"]["rows"] if row < len(in_table)]
        chosen.sort(key=lambda name: before.index(name) if name in before else len(before))
    else:  # the page is opened
        asked = st.query_params.get("compare")
        chosen = asked.split(",") if asked else before
    chosen = [name for name in dict.fromkeys(chosen) if name in names]
    rows = sorted(names.index(name) for name in chosen)
    if KEY not in st.session_state or sorted(st.session_state[KEY]["selection"]["rows"]) != rows:
        st.session_state[KEY] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    st.session_state["runs in table"], st.session_state["runs chosen"] = names, chosen
    if chosen:
        st.query_params["compare"] = ",".join(chosen)
    else:
        st.query_params.pop("compare", None)


def _row(run: Run) -> dict[str, Any]:
    model, training, metrics = run.summary.model, run.summary.training, run.summary.metrics
    assert model
    assert training
    epoch, seconds = (metrics.epochs, metrics.seconds) if metrics else (None, None)
    if run.state in ACTIVE_STATES or not metrics:  # the figures are those of the last save
        epoch, seconds = _progress(run.summary.name)
    return {
        "name": run.summary.name,
        "state": run.state,
        "dataset": training.dataset,
        "network": layers(model),
        "latent_dim": model.latent_dim,
        "family": FAMILIES[family_of(model, training)].title,
        "likelihood": likelihood_title(model),
        "beta": None if training.objective in WITHOUT_BETA else training.beta,
        "kl_terms": kl_terms(model, training),
        "epoch": epoch,
        "epochs": training.epochs,
        "elbo": metrics and metrics.elbo,
        "recon_loss": metrics and metrics.recon_loss,
        "kl": metrics and metrics.kl,
        "active_units": metrics and metrics.active_units,
        "seconds": seconds,
    }


def _progress(name: str) -> tuple[float | None, float | None]:
    """Epochs and seconds so far."""
    try:
        records = read_history(find(name))
    except CheckpointError:
        return None, None  # deleted meanwhile
    return (records[-1].epoch, records[-1].seconds) if records else (None, None)


def likelihood_title(model: ModelConfig) -> str:
    if not model.has_scale:
        return LIKELIHOOD_TITLES[model.likelihood]
    sigma = {"fixed": f"σ {model.sigma:g}", "learned": "σ learned", "per_pixel": "σ of each pixel"}[model.scale]
    return f"{LIKELIHOOD_TITLES[model.likelihood]}, {sigma}"


def layers(model: ModelConfig) -> str:
    """As `mlp 512-256-2`, from image to code."""
    return f"{model.network} {'-'.join(map(str, (*model.channels, *model.widths, model.latent_dim)))}"


def kl_terms(model: ModelConfig, training: TrainConfig) -> str:
    """What is special in how it is trained; empty if nothing is."""
    labels = f"labels of {training.labelled_share:.0%} known, weight {training.label_weight:g}"
    parts = {
        f"warm-up, {training.warmup_epochs:g} epochs": training.beta_schedule == "warmup",
        f"{training.n_cycles} cycles": training.beta_schedule == "cyclical",
        f"free bits {training.free_bits:g}": training.free_bits > 0,
        f"{training.n_samples} samples": training.objective == "iwae",
        f"capacity {training.capacity:g} nats": training.objective == "capacity",
        f"ρ {training.rho:g}": training.objective == "sparse",
        f"targets {training.targets}": training.targets != "grey",
        f"{training.corruption.replace('_', ' ')} {training.corruption_level:g}": training.corruption != "none",
        "told the class": model.labels == "given",
        labels: model.labels == "predicted",
        f"class {training.left_out_class} left out": training.left_out_class >= 0,
    }
    return " · ".join(part for part, is_so in parts.items() if is_so)
