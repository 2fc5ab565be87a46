"""A training run as it stands in its folder: state, speed, curves; stop; and where to go when it is done."""

from __future__ import annotations

import streamlit as st

from pages.ui.charts import curves, live_curves
from vae import runs
from vae.checkpoint import CheckpointError, find, list_checkpoints, read_metrics
from vae.runs import RunError, RunStatus
from vae.train import N_LIVE_HELD_OUT

REFRESH_SECONDS = 0.5


def pick_run() -> str | None:
    """A select box of all runs, the active ones first; the choice is in the URL as `?run=`."""
    active = runs.active_runs()
    others = [summary.name for summary in list_checkpoints() if summary.model and summary.name not in active]
    names = active + sorted(others, key=_age, reverse=True)
    if not names:
        return None
    started = st.session_state.pop("run to show", None)
    if started in names:
        st.session_state["run"] = started
    return st.selectbox("Run", names, key="run", bind="query-params", persist_state="session")


def _age(name: str) -> float:
    path = find(name) / "config.json"
    return path.stat().st_mtime if path.is_file() else 0.0


def watch_run(name: str) -> None:
    """Shows a run; while it goes on, twice a second anew."""
    try:
        active = runs.status(name).is_active
    except CheckpointError as error:
        st.error(str(error))
        return
    if active:
        _watch_live(name)
    else:
        _show_ended(name)


@st.fragment(run_every=REFRESH_SECONDS)
def _watch_live(name: str) -> None:
    try:
        status = runs.status(name)
    except CheckpointError as error:
        st.error(str(error))
        return
    if not status.is_active:
        st.rerun()  # the whole page: this one no longer renews itself
    _show_progress(status)
    if st.button("Stop and keep what was learnt", icon=":material/stop:", key=f"stop {name}"):
        _stop(name)
    if status.records:
        live_curves(status.records)


def _stop(name: str) -> None:
    try:
        runs.request_stop(name)
    except (CheckpointError, RunError) as error:
        st.error(str(error))


def _show_progress(status: RunStatus) -> None:
    if not status.records:
        st.progress(0.0, f"**{status.name}**: {status.message}")
        return
    record = status.records[-1]
    text = (
        f"**{status.name}**: epoch {record.epoch:.1f} of {record.n_steps / max(record.step, 1) * record.epoch:.0f}, "
        f"{record.images_per_second:,.0f} images/s, {_duration(record.seconds_left)} left"
        if record.step
        else f"**{status.name}**: starting."
    )
    st.progress(record.step / record.n_steps, text)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _show_ended(name: str) -> None:
    status = runs.status(name)
    if status.state in ("failed", "interrupted"):
        st.error(status.message)
    elif status.message:
        st.success(status.message) if status.state == "finished" else st.warning(status.message)
    _show_figures(name)
    if status.records:
        curves(status.records, key=f"curves {name}")
        st.caption(
            "Nats per image: sums over pixels and latent dimensions, mean over images. Held-out images were never "
            f"trained on; their curve is over {N_LIVE_HELD_OUT:,} of them at most, the figures above over all."
        )


def _show_figures(name: str) -> None:
    try:
        metrics = read_metrics(find(name))
    except CheckpointError:
        return  # ended before anything was saved; the message above says so
    left, middle, right = st.columns(3)
    left.metric("Held-out ELBO", f"{metrics.elbo:.2f} nats", help="−(reconstruction + KL); higher is better")
    middle.metric("Reconstruction", f"{metrics.recon_loss:.2f} nats", help="−log p(x|z), summed over pixels")
    right.metric("KL", f"{metrics.kl:.2f} nats", help="KL(q(z|x) ‖ p(z)), summed over latent dimensions")
    left.page_link(
        "pages/latent_map.py", label="Open on the map", icon=":material/scatter_plot:", query_params={"model": name}
    )
    middle.page_link(
        "pages/interpolate.py", label="Interpolate", icon=":material/linear_scale:", query_params={"model": name}
    )
