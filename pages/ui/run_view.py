"""A training run as it stands in its folder: state, speed, curves; stop; and where to go when it is done."""

from __future__ import annotations

import streamlit as st

from pages.ui.charts import curves, live_curves
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import CheckpointError, find, list_checkpoints, read_config, read_metrics
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
    asked = st.query_params.get("run")
    if asked and asked not in names:
        st.warning(f"There is no run {asked!r}; another one is shown.")
    return st.selectbox("Run", names, key="run", bind="query-params", persist_state="session")


def _age(name: str) -> float:
    try:
        return (find(name) / "config.json").stat().st_mtime
    except (CheckpointError, OSError):
        return 0.0  # deleted meanwhile


def watch_run(name: str) -> None:
    """Shows a run; while it goes on, twice a second anew."""
    try:
        status = runs.status(name)
        st.caption(_describe(*read_config(find(name))))
    except CheckpointError as error:
        st.error(str(error))
        return
    if status.is_active:
        _watch_live(name)
    else:
        _show_ended(status)


def _describe(model: ModelConfig, training: TrainConfig) -> str:
    """A run's settings in one line."""
    layers = "-".join(map(str, (*model.channels, *model.widths, model.latent_dim)))
    likelihood = f"Gaussian, σ {model.sigma:g}" if model.likelihood == "gaussian" else "Bernoulli"
    parts = [
        training.dataset, f"{model.network} {layers}", likelihood, f"β {training.beta:g}",
        f"{training.epochs:,} epochs",
        f"batch {training.batch_size}", f"learning rate {training.learning_rate:g}", f"seed {training.seed}",
    ]  # fmt: skip
    return " · ".join(parts)


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
        st.toast("Stopping…")
    except (CheckpointError, RunError) as error:
        st.error(str(error))


def _show_progress(status: RunStatus) -> None:
    if not status.records or not status.records[-1].step:
        st.progress(0.0, f"**{status.name}**: {status.message}")
        return
    record = status.records[-1]
    st.progress(
        record.step / record.n_steps,
        f"**{status.name}**: epoch {record.epoch:.1f}, {record.step / record.n_steps:.0%}, "
        f"{record.images_per_second:,.0f} images/s, {_duration(record.seconds_left)} left",
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _show_ended(status: RunStatus) -> None:
    if status.state in ("failed", "interrupted"):
        st.error(status.message)
    elif status.message:
        st.success(status.message) if status.state == "finished" else st.warning(status.message)
    _show_figures(status.name)
    if status.records:
        curves(status.records, key=f"curves {status.name}")
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
    left.metric("Held-out ELBO, nats", f"{metrics.elbo:.2f}", help="−(reconstruction + KL); higher is better")
    middle.metric("Reconstruction, nats", f"{metrics.recon_loss:.2f}", help="−log p(x|z), summed over pixels")
    right.metric("KL, nats", f"{metrics.kl:.2f}", help="KL(q(z|x) ‖ p(z)), summed over latent dimensions")
    left.page_link(
        "pages/latent_map.py", label="Open on the map", icon=":material/scatter_plot:", query_params={"model": name}
    )
    middle.page_link(
        "pages/interpolate.py", label="Interpolate", icon=":material/linear_scale:", query_params={"model": name}
    )
