"""Curves of several runs, one over the other."""

from __future__ import annotations

from functools import partial

import streamlit as st

from pages.ui.charts import overlay
from pages.ui.instrument import LOSSES
from pages.ui.latent_map import CLASS_COLOURS
from pages.ui.runs_table import kl_terms, likelihood_title
from vae import TrainConfig
from vae.checkpoint import CheckpointError, find, read_history
from vae.config import WITHOUT_BETA
from vae.processes import ACTIVE_STATES
from vae.runs import Run
from vae.train import N_LIVE_HELD_OUT, Record

TERM_TITLES = {"loss": "Loss", "recon_loss": "Reconstruction", "kl": "KL", "penalty": "Penalty"}
SPLIT_TITLES = {"held_out": "Held-out", "train": "Training", "both": "Both"}
AXIS_TITLES = {"epoch": "Epochs", "seconds": "Seconds"}


def compare(chosen: list[Run]) -> None:
    """Shows what the curves are drawn of, and the curves."""
    histories = {run.summary.name: _history(run.summary.name) for run in chosen}
    without = [name for name, records in histories.items() if not records]
    with_curves = [run for run in chosen if run.summary.name not in without]
    if with_curves:
        with st.container(horizontal=True, gap="medium"):
            kept = [record.held_out for records in histories.values() for record in records if record.held_out]
            terms = {
                term: title for term, title in TERM_TITLES.items() if any(getattr(t, term) is not None for t in kept)
            }
            term = _choice("Curve", terms or TERM_TITLES, "compare-term")
            split = _choice("Images", SPLIT_TITLES, "compare-images")
            axis = _choice("Over", AXIS_TITLES, "compare-over")
        lacking = [run.summary.name for run in with_curves if not _has(histories[run.summary.name], term)]
        shown = [run for run in with_curves if run.summary.name not in lacking]
        overlay({run.summary.name: histories[run.summary.name] for run in shown}, CLASS_COLOURS, term, split, axis)
        lack = f"Without this curve: {', '.join(lacking)}." if lacking else ""
        for sentence in filter(None, [lack, _caveat(shown, term), _note(shown, split)]):
            st.caption(sentence)
    if without:
        st.caption(f"No curves are kept of {', '.join(without)}.")


def _choice(label: str, titles: dict[str, str], key: str) -> str:
    widget = partial(st.segmented_control, label, list(titles), format_func=titles.get, required=True)
    return widget(default=next(iter(titles)), key=key, persist_state="session")


def _history(name: str) -> list[Record]:
    try:
        return read_history(find(name))
    except CheckpointError:
        return []  # deleted meanwhile


def _has(records: list[Record], term: str) -> bool:
    return any(getattr(record.held_out, term) is not None for record in records if record.held_out)


def _caveat(chosen: list[Run], term: str) -> str:
    """What keeps the curves from being compared; empty if nothing does."""
    trainings = [(run.summary.model, run.summary.training) for run in chosen]
    counted = {(t.dataset, t.targets, likelihood_title(m), m.labels == "given", _corruption(t)) for m, t in trainings}
    if term == "penalty":
        kinds = {name: LOSSES[objective][1] for name, objective in _objectives(chosen).items()}
        if len(set(kinds.values())) > 1:
            return f"These are not the same thing: {'; '.join(f'{name}: {kind}' for name, kind in kinds.items())}."
        return f"This is {next(iter(kinds.values()), 'nothing')}."
    if term != "kl" and len(counted) > 1:
        return (
            "These runs differ in their images, in what they are told of them, or in their likelihood: their nats "
            "count different things."
        )
    objectives = set(_objectives(chosen).values())
    if term == "recon_loss" and "iwae" in objectives:
        return "Of a run with the importance-weighted bound, this is −bound − KL; its reconstruction is in the table."
    if term == "loss" and len(objectives) > 1:
        return "These runs differ in their objective, so their losses can't be compared; see their parts."
    weights = {(t.objective in WITHOUT_BETA or t.beta, kl_terms(m, t)) for m, t in trainings}
    if term == "loss" and len(weights) > 1:
        return "These runs differ in β or in what else their loss counts, so their losses can't be compared."
    return ""


def _corruption(training: TrainConfig) -> tuple[str, float]:
    return training.corruption, training.corruption_level * (training.corruption != "none")


def _objectives(chosen: list[Run]) -> dict[str, str]:
    return {run.summary.name: run.summary.training.objective for run in chosen if run.summary.training}


def _note(chosen: list[Run], split: str) -> str:
    parts = []
    if split == "both":
        parts.append("Solid: held-out images; dotted: training images.")
    if split != "train":
        parts.append(f"Held-out curves are over {N_LIVE_HELD_OUT:,} images at most, the table's figures over all.")
    active = [run.summary.name for run in chosen if run.state in ACTIVE_STATES]
    if active:
        parts.append(f"{', '.join(active)}: as far as trained when it was chosen; the Train page shows it live.")
    return " ".join(parts)
