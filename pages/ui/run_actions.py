"""What can be done with one run: look at it, begin another like it, train it on, rename it, delete it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from pages.ui import visitor
from pages.ui.pictures import save_film_button
from pages.ui.runs_table import choose
from pages.ui.train_form import fill_form
from vae import TrainConfig, runs
from vae.checkpoint import CheckpointError, find, is_shipped
from vae.config import ConfigError
from vae.runs import RESUME_FILE, Run, RunError, RunStatus


def show_run(run: Run) -> None:
    """Shows the links and buttons of a run."""
    name = run.summary.name
    try:
        status = runs.status(name)
    except CheckpointError as error:
        st.error(str(error))
        return
    st.subheader(name, anchor=False)
    if status.message:
        st.caption(status.message)
    with st.container(horizontal=True, vertical_alignment="center"):
        _links(run, status)
        save_film_button(name)
    if visitor.is_read_only():
        return
    reason = why_not(name)
    with st.container(horizontal=True):
        if st.button("New run from these settings", icon=":material/add:", key=f"again {name}"):
            fill_form(run.summary.model, run.summary.training)
            st.switch_page("pages/train.py")
        if status.is_active:
            _stop_button(name, reason)
        else:
            continue_run(status, run.summary.training, reason)
            _rename(name, reason)
            _delete_button(name, reason)
    if st.session_state.get("run to delete") == name:
        _ask_to_delete(name)


def why_not(name: str) -> str:
    """Why this visitor may not change a run; empty if they may."""
    if is_shipped(find(name)):
        return "It ships with the program and stays as it is."
    return "" if visitor.may_change(name) else "Whoever started it may do that."


def _attempt(action: Callable[..., None], *arguments: Any) -> bool:
    """Whether it was done; if not, the page says why."""
    try:
        action(*arguments)
    except (ConfigError, RunError, CheckpointError) as error:
        st.error(str(error))
        return False
    return True


def _links(run: Run, status: RunStatus) -> None:
    name, no_model = run.summary.name, run.summary.problem is not None
    icons = {"latent_map": ":material/scatter_plot:", "interpolate": ":material/linear_scale:"}
    icons["evaluate"] = ":material/query_stats:"
    titles = {"latent_map": "Open on the map", "interpolate": "Interpolate", "evaluate": "Evaluate"}
    for page, label in titles.items():
        st.page_link(f"pages/{page}.py", label=label, icon=icons[page], query_params={"model": name}, disabled=no_model)
    label = "Watch" if status.is_active else "Replay"
    st.page_link("pages/train.py", label=label, icon=":material/play_circle:", query_params={"run": name})


def _stop_button(name: str, reason: str) -> None:
    pressed = st.button("Stop", icon=":material/stop:", disabled=bool(reason), help=reason or None, key=f"stop {name}")
    if pressed and _attempt(runs.request_stop, name):
        st.toast("Stopping…")


def continue_run(status: RunStatus, training: TrainConfig, reason: str) -> None:
    """Resume does what is left of a run that ended early; Continue gives it more epochs. reason: why neither may be."""
    name, planned = status.name, training.epochs
    trained = status.records[-1].epoch if status.records else 0.0
    if status.state == "finished" and not (find(name) / RESUME_FILE).is_file():
        reason = reason or "What it needs to go on was not kept with it."
    off = {"disabled": bool(reason), "help": reason or None, "icon": ":material/resume:"}
    left = status.state != "finished" and trained < planned
    if left and st.button(f"Resume to epoch {planned:,}", key=f"resume {name}", **off) and _attempt(runs.resume, name):
        st.rerun()
    with st.popover("Continue", key=f"more {name}", **off):
        st.caption(f"Trained for {trained:g} of {planned:,} epochs.")
        epochs = st.number_input(
            "Train on to epoch", value=max(1, round(2 * trained)), min_value=1, step=1, key=f"epochs {name} {trained}"
        )
        pressed = st.button("Continue training", type="primary", key=f"continue {name}")
        if pressed and _attempt(runs.resume, name, epochs):
            st.rerun()


def _rename(name: str, reason: str) -> None:
    with st.popover("Rename", icon=":material/edit:", disabled=bool(reason), help=reason or None, key=f"rename {name}"):
        new_name = st.text_input("New name", name, max_chars=64, key=f"new name of {name}")
        pressed = st.button("Rename it", type="primary", disabled=new_name == name, key=f"rename it {name}")
        if pressed and _attempt(runs.rename, name, new_name):
            choose([new_name])
            st.rerun()


def _delete_button(name: str, reason: str) -> None:
    pressed = st.button(
        "Delete", icon=":material/delete:", disabled=bool(reason), help=reason or None, key=f"delete {name}"
    )
    if pressed:
        st.session_state["run to delete"] = name  # the question outlasts that the page is drawn again


def _forget_to_delete() -> None:
    st.session_state.pop("run to delete", None)


@st.dialog("Delete this run?", on_dismiss=_forget_to_delete)
def _ask_to_delete(name: str) -> None:
    st.markdown(f"**{name}**: its model, curves and film will be gone for good.")
    with st.container(horizontal=True):
        if st.button("Delete it", type="primary") and _attempt(runs.delete, name):
            _forget_to_delete()
            st.rerun()
        if st.button("Keep it"):
            _forget_to_delete()
            st.rerun()
