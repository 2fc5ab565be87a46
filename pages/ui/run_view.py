"""A training run as it stands in its folder: watch it form, hold it, bend it, stop it; replay it when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from pages.ui import visitor
from pages.ui.instrument import IN_NATS, instrument, live_payload, replay_payload
from pages.ui.pictures import film_of, save_film_button
from pages.ui.run_actions import continue_run, why_not
from pages.ui.runs_table import kl_terms, layers, likelihood_title
from vae import ModelConfig, TrainConfig, data, runs
from vae.checkpoint import CheckpointError, find, load_model, read_config, read_metrics
from vae.config import WITHOUT_BETA, ConfigError
from vae.families import FAMILIES, family_of
from vae.film import EARLY_SECONDS, FILM_FILE, LIVE_FILE, read_live
from vae.processes import ACTIVE_STATES, RunError
from vae.runs import RunStatus
from vae.train import N_LIVE_HELD_OUT

REFRESH_SECONDS, LATER_REFRESH_SECONDS = 0.4, 1.0
FIRST_RECORD_SECONDS = 0.6  # that a page which has just started a run waits for the first point of its curve
SLOW_DELAY = 0.25  # seconds between two batches in slow motion
FILES = ("config.json", "history.jsonl", FILM_FILE, LIVE_FILE, "model.safetensors")


def pick_run() -> str | None:
    """A select box of all runs, the active ones first, then the youngest; the choice is in the URL as `?run=`."""
    shown = [run for run in runs.list_runs() if run.summary.model]
    names = [run.summary.name for run in sorted(shown, key=lambda run: run.state not in ACTIVE_STATES)]
    if not names:
        return None
    started = st.session_state.get("run to show")
    if started in names:
        st.session_state["run"] = started
    asked = st.query_params.get("run")
    if asked and asked not in names:
        st.warning(f"There is no run {asked!r}; another one is shown.")
    return st.selectbox("Run", names, key="run", bind="query-params", persist_state="session")


def watch_run(name: str) -> None:
    """Shows a run; while it goes on, again and again."""
    if st.session_state.pop("run to show", None) == name:
        _await_first_record(name)
    try:
        status = runs.status(name)
        model, training = read_config(find(name))
    except CheckpointError as error:
        st.error(str(error))
        return
    st.caption(_describe(model, training))
    if status.is_active:
        every = _refresh_seconds(status)
        st.fragment(_watch_live, run_every=every)(name, every)
    else:
        _show_ended(status, training)


def _await_first_record(name: str) -> None:
    """The page renews itself now and then; whoever has just pressed start sees the first point before that."""
    deadline = time.monotonic() + FIRST_RECORD_SECONDS
    while time.monotonic() < deadline:
        status = runs.status(name)
        if status.records or not status.is_active:
            return
        time.sleep(0.02)


def _describe(model: ModelConfig, training: TrainConfig) -> str:
    """A run's settings in one line."""
    parts = [
        FAMILIES[family_of(model, training)].title, training.dataset, f"{layers(model)}, {model.activation}",
        likelihood_title(model), "" if training.objective in WITHOUT_BETA else f"β {training.beta:g}",
        kl_terms(model, training), f"{training.epochs:,} epochs", f"batch {training.batch_size}",
        f"learning rate {training.learning_rate:g}, {training.schedule}", f"seed {training.seed}",
    ]  # fmt: skip
    return " · ".join(filter(None, parts))


# Under way


def _refresh_seconds(status: RunStatus) -> float:
    """Often while much happens, and while someone holds the run; each time takes processor time from the training."""
    is_early = not status.records or status.records[-1].seconds < EARLY_SECONDS
    is_held = status.control.paused or status.control.delay > 0
    return REFRESH_SECONDS if is_early or is_held else LATER_REFRESH_SECONDS


def _watch_live(name: str, every: float) -> None:
    """every: the seconds between two calls; when they should be others, the page is run anew."""
    try:
        status = runs.status(name)
    except CheckpointError as error:
        st.error(str(error))
        return
    if not status.is_active or _refresh_seconds(status) != every:
        st.rerun()
    _show_progress(status)
    if visitor.may_change(name):
        _show_controls(status)
    elif visitor.mode() == "class":
        st.caption("Only the browser that started this run can steer it.")
    instrument(_live(name, _stamp(name)), key=f"live {name}")


def _show_progress(status: RunStatus) -> None:
    if not status.records or not status.records[-1].step:
        st.progress(0.0, f"**{status.name}**: {status.message}")
        return
    record = status.records[-1]
    share = record.step / record.n_steps
    how = status.message
    if status.state == "running" and status.message == "Training.":
        how = f"{record.images_per_second:,.0f} images/s, {_duration(record.seconds_left)} left"
    st.progress(share, f"**{status.name}**: epoch {record.epoch:.1f}, {share:.0%}. {how}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _show_controls(status: RunStatus) -> None:
    """What whoever owns a run can do with it while it goes on."""
    name, control = status.name, status.control
    is_waiting = status.state not in ("running", "paused")
    slow_key = f"slow {name}"
    _follow(slow_key, control.delay > 0)
    with st.container(horizontal=True, vertical_alignment="center"):
        if control.paused:
            _button("Go on", ":material/play_arrow:", is_waiting, lambda: runs.go_on(name))
        else:
            _button("Pause", ":material/pause:", is_waiting, lambda: runs.pause(name))
        _button("One batch", ":material/skip_next:", is_waiting, lambda: runs.do_one_batch(name))
        _button("Stop and keep what was learnt", ":material/stop:", control.stop, lambda: runs.request_stop(name))
        st.toggle(
            "Slow motion",
            key=slow_key,
            disabled=is_waiting,
            on_change=_ask,
            args=(lambda: runs.slow_down(name, SLOW_DELAY if st.session_state[slow_key] else 0.0),),
        )
    _, training = read_config(find(name))
    left, right = st.columns(2)
    with left:
        if training.objective not in WITHOUT_BETA:
            _number("β from now on", f"beta {name}", control.beta, training.beta, 0.5, lambda x: runs.set_beta(name, x))
    with right:
        _number(
            "Rate from now on", f"rate {name}", control.learning_rate, training.learning_rate, 0.0005,
            lambda x: runs.set_learning_rate(name, x),
        )  # fmt: skip


def _button(label: str, icon: str, is_off: bool, act: Callable[[], None]) -> None:
    st.button(label, icon=icon, disabled=is_off, on_click=_ask, args=(act,), key=f"run {label}")


def _number(
    label: str, key: str, asked: float | None, default: float, step: float, act: Callable[[float], None]
) -> None:
    """A setting of the run: what was asked for last, else what it began with."""
    _follow(key, float(default if asked is None else asked))
    st.number_input(label, step=step, format="%g", key=key, on_change=_ask, args=(lambda: act(st.session_state[key]),))


def _follow(key: str, value: bool | float) -> None:
    """A widget shows what is asked of the run, whoever asked it; what is being typed meanwhile stays."""
    if st.session_state.get(f"{key} asked") != value or key not in st.session_state:
        st.session_state[key] = st.session_state[f"{key} asked"] = value


def _ask(act: Callable[[], None]) -> None:
    try:
        act()
    except (CheckpointError, ConfigError, RunError) as error:
        st.toast(str(error), icon=":material/error:")


# Pictures of it


def _stamp(name: str) -> tuple[tuple[int, int], ...]:
    """Changes when the run's files do."""
    paths = [find(name) / file for file in FILES]
    stats = [path.stat() if path.is_file() else None for path in paths]
    return tuple((stat.st_mtime_ns, stat.st_size) if stat else (0, 0) for stat in stats)


@st.cache_resource(max_entries=8, show_spinner=False)
def _live(name: str, stamp: object) -> bytes:  # noqa: ARG001
    """What all who watch a run see now; made once."""
    folder = find(name)
    model, training = read_config(folder)
    status = runs.status(name)
    return live_payload(
        name, model, training, data.dataset_info(training.dataset).class_names, status.records, status.changes,
        read_live(folder, model),
    )  # fmt: skip


@st.cache_resource(max_entries=8, show_spinner="Loading the film of the training.")
def _replay(name: str, stamp: object) -> bytes:  # noqa: ARG001
    folder = find(name)
    model, training = read_config(folder)
    status = runs.status(name)
    decoder = load_model(folder).decoder if (folder / "model.safetensors").is_file() else None
    film = film_of(name)
    return replay_payload(
        name, model, training, data.dataset_info(training.dataset).class_names, status.records, status.changes, film,
        decoder,
    )  # fmt: skip


# Ended


def _show_ended(status: RunStatus, training: TrainConfig) -> None:
    if status.state in ("failed", "interrupted"):
        st.error(status.message)
    elif status.message:
        st.success(status.message) if status.state == "finished" else st.warning(status.message)
    _show_figures(status.name)
    with st.container(horizontal=True, vertical_alignment="center"):
        here = {"model": status.name}
        st.page_link("pages/latent_map.py", label="Open on the map", icon=":material/scatter_plot:", query_params=here)
        st.page_link("pages/interpolate.py", label="Interpolate", icon=":material/linear_scale:", query_params=here)
        st.page_link("pages/evaluate.py", label="Evaluate", icon=":material/query_stats:", query_params=here)
        save_film_button(status.name)
        if not visitor.is_read_only():
            continue_run(status, training, why_not(status.name))
    try:
        instrument(_replay(status.name, _stamp(status.name)), key=f"replay {status.name}")
    except CheckpointError as error:
        st.error(str(error))
        return
    st.caption(
        "Nats per image: sums over pixels and latent dimensions, mean over images. "
        + ("The third curve is a distance or a norm, which has no unit. " * (training.objective not in IN_NATS))
        + "Held-out images were never "
        f"trained on; their curve is over {N_LIVE_HELD_OUT:,} of them at most, the figures above over all."
        + (" The curves are of corrupted images, the figures above of clean ones." * (training.corruption != "none"))
        + (" The curves are of the bound with k samples, the figures above of one." * (training.objective == "iwae"))
    )


def _show_figures(name: str) -> None:
    """What has been reached, as a sum that one can check."""
    try:
        metrics = read_metrics(find(name))
    except CheckpointError:
        return  # ended before anything was saved; the message above says so
    in_use = ""
    if metrics.active_units is not None:
        in_use = f" {metrics.active_units} latent dimension{'s' * (metrics.active_units != 1)} in use."
    if metrics.elbo is None or metrics.kl is None:
        st.markdown(
            f"**Held-out reconstruction {metrics.recon_loss:.2f}** nats per image, lower is better. A code of this "
            f"model has no spread, so there is no KL and no ELBO.{in_use}"
        )
        return
    st.markdown(
        f"**Held-out ELBO {metrics.elbo:.2f}** = −(reconstruction {metrics.recon_loss:.2f} + KL {metrics.kl:.2f}) "
        f"nats per image; higher is better.{in_use}".replace("ELBO -", "ELBO −")
    )
