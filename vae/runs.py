"""Runs: start one, watch it, steer it, take it up again, put it away. It survives the browser and the server.

A run is a folder being written by a worker process (worker.py); everyone else just reads it:

config.json        what is trained, and how; written when the run is created, and when it gets more epochs
run.json           its state, a sentence about it, and its ticket, which is its place in the order of runs
control.json       what is asked of the worker: the one file that goes the other way
history.jsonl      a line for each record of the training, and for each setting that was changed under way
film.bin           what the model looked like at many moments; live.safetensors: what it looks like now
resume.safetensors what the rest of the training depends on
worker.lock        locked as long as the worker lives; the system lifts the lock when it dies
and what checkpoint.py describes, for a run becomes a checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vae import cluster, data
from vae.checkpoint import (
    SHIPPED_ROOT,
    CheckpointError,
    Summary,
    check_name,
    checkpoint_folders,
    checkpoint_root,
    find,
    is_shipped,
    list_checkpoints,
    read_changes,
    read_config,
    read_history,
    read_json,
    save_config,
    write_atomically,
    write_json,
)
from vae.config import ConfigError, ModelConfig, TrainConfig, check_fit, check_integer, check_number
from vae.processes import (
    ACTIVE_STATES,
    RunError,
    is_starting,
    last_line,
    read_work,
    start_worker,
    state_of,
    unwritable,
)
from vae.train import Change, Record, pick_device

STATES = (*ACTIVE_STATES, "stopped", "finished", "failed", "interrupted")
RESUME_FILE = "resume.safetensors"
MAX_DELAY = 10.0  # seconds between two batches in slow motion


@dataclass(frozen=True)
class Control:
    """What is asked of a run under way. Raises ConfigError if a field is out of its range."""

    stop: bool = False
    paused: bool = False
    batches: int = 0  # that a paused run is to do nevertheless, since it was started; each press adds one
    delay: float = 0.0  # slow motion: seconds between two batches, 0 to MAX_DELAY
    beta: float | None = None  # instead of the config's
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "paused"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, f"{getattr(self, name)!r} was given; use true or false")
        check_integer("batches", self.batches, 0, 2**31)
        check_number("delay", self.delay, 0, MAX_DELAY, low_allowed=True)
        if self.beta is not None:
            check_number("beta", self.beta, 0, 1000, low_allowed=True)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, 0, 1)


@dataclass(frozen=True)
class RunStatus:
    """A run as its folder tells it."""

    name: str
    state: str  # one of STATES
    message: str  # a sentence for people
    records: list[Record]
    changes: list[Change]
    control: Control

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES


@dataclass(frozen=True)
class Run:
    """A line of the table of runs."""

    summary: Summary
    state: str
    ticket: int  # of two runs, the younger has the higher one; 0 for what came without a run


def max_runs() -> int:
    """How many runs train at a time on this machine: $LATENTARIUM_RUNS, else 1."""
    text = os.environ.get("LATENTARIUM_RUNS") or "1"
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ConfigError("LATENTARIUM_RUNS", f"{text!r} was given; use a whole number from 1 to 64")
    return int(text)


# Starting


def create(name: str, model: ModelConfig, training: TrainConfig, owner: str = "", scheduler: str = "") -> Path:
    """Claims the name and writes the folder of a run that is yet to begin. Returns the folder.

    owner: whoever may stop it, where not everybody may; see `owner_of`. scheduler: of the cluster that it will run on.
    Raises ConfigError for a name or setting that can't work, RunError if the folder can't be written.
    """
    check_name(name)
    check_settings(model, training)
    root = checkpoint_root()
    _check_free(name)
    scratch = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        scratch.chmod(0o755)
        save_config(scratch, model, training)
        if owner:
            write_json(scratch / "owner.json", {"owner": owner})
        with _queue_lock():
            _write_ticket(scratch, scheduler)
            os.rename(scratch, root / name)  # fails if someone else took the name in between
    except OSError as error:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        if os.path.lexists(root / name):
            raise ConfigError("name", f"{name!r} exists already; choose another") from error
        raise RunError(
            f"The run can't be written to {root} ({error.strerror}); make room there, "
            "or set LATENTARIUM_CHECKPOINTS to another folder."
        ) from error
    return root / name


def check_settings(model: ModelConfig, training: TrainConfig) -> None:
    """Raises ConfigError if a model can't be trained so here."""
    check_fit(model, training)
    info = data.dataset_info(training.dataset)
    if training.batch_size > info.n_train:
        raise ConfigError(
            "batch_size", f"{training.batch_size:,} was given; {training.dataset} has {info.n_train:,} training images"
        )
    if model.image_shape != info.image_shape:
        raise ConfigError("image_shape", f"{model.image_shape} was given; {training.dataset} has {info.image_shape}")
    n_classes = len(info.class_names)
    if model.labels != "unused" and model.n_classes != n_classes:
        raise ConfigError("n_classes", f"{model.n_classes} was given; {training.dataset} has {n_classes}")
    if training.left_out_class >= n_classes:
        raise ConfigError(
            "left_out_class", f"{training.left_out_class} was given; {training.dataset} has 0 to {n_classes - 1}"
        )
    pick_device(training.device)
    max_runs()


def _check_free(name: str) -> None:
    for folder in (checkpoint_root() / name, SHIPPED_ROOT / name):
        if os.path.lexists(folder):
            raise ConfigError("name", f"{name!r} exists already; choose another, or delete {folder}")


def start(name: str, model: ModelConfig, training: TrainConfig, owner: str = "") -> Path:
    """Creates a run and starts a worker for it that outlives this process. Returns the run's folder.

    Raises as `create`, and RunError if the worker can't be started.
    """
    folder = create(name, model, training, owner, cluster.address())
    try:
        _start_worker(name, folder)
    except RunError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _start_worker(name: str, folder: Path) -> None:
    """On the cluster if there is one, else on this machine."""
    scheduler = cluster.address()
    if scheduler:
        cluster.submit(scheduler)
        return
    try:
        start_worker("work", name, folder)
    except OSError as error:
        raise RunError(f"The training process can't be started ({error.strerror}); make room and try again.") from error


def resume(name: str, epochs: int | None = None) -> None:
    """Takes up a run that has stopped, for whatever reason, where it was kept last; epochs: of the whole run, if it
    shall get others than it had.

    Raises CheckpointError if there is no such run, ConfigError for epochs that can't be, RunError if it can't go on.
    """
    requeue(name, epochs, cluster.address())
    folder = find(name)
    try:
        _start_worker(name, folder)
    except RunError as error:
        write_state(folder, "interrupted", str(error))
        raise


def requeue(name: str, epochs: int | None = None, scheduler: str = "") -> None:
    """What `resume` does but for starting a worker."""
    folder = find(name)
    model, training = read_config(folder)
    with _writing(folder), FileLock(folder / "control.lock"):
        state, _ = read_state(folder)
        if state in ACTIVE_STATES:
            raise RunError(f"{name} is in training already.")
        if state == "finished" and not (folder / RESUME_FILE).is_file():
            raise RunError(f"{name} came without what it needs to go on; start a new run from its settings.")
        records = read_history(folder)
        if epochs is not None:
            check_integer("epochs", epochs, 1, 100_000)
        total = epochs or training.epochs
        if records and total <= records[-1].epoch and (epochs or state == "finished"):
            raise ConfigError("epochs", f"{name} is trained for {records[-1].epoch:g} epochs already; give more")
        if total != training.epochs:
            save_config(folder, model, replace(training, epochs=total))
            step, epoch = (records[-1].step, records[-1].epoch) if records else (0, 0.0)
            append_line(folder, Change(step, epoch, "epochs", total))
        control = read_control(folder)
        write_json(folder / "control.json", asdict(Control(beta=control.beta, learning_rate=control.learning_rate)))
        with _queue_lock():
            _write_ticket(folder, scheduler)


def _queue_lock() -> FileLock:
    return FileLock(checkpoint_root() / ".queue.lock")


def _write_ticket(folder: Path, scheduler: str) -> None:
    """Puts a run at the end of the queue, whose lock is held."""
    ticket = 1 + max(map(_ticket_of, checkpoint_folders(checkpoint_root())), default=0)
    content = state_of("queued", "Waiting for its turn.", ticket=ticket, scheduler=scheduler)
    write_json(folder / "run.json", content)


def _ticket_of(folder: Path) -> int:
    try:
        ticket = read_json(folder / "run.json").get("ticket", 0)
    except CheckpointError:
        return 0
    return ticket if isinstance(ticket, int) else 0


# Watching


def status(name: str) -> RunStatus:
    """Raises CheckpointError if there is no such run, or its files are damaged."""
    folder = find(name)
    state, message = read_state(folder)
    if state == "queued":
        message = _place_in_queue(folder)
    return RunStatus(name, state, message, read_history(folder), read_changes(folder), read_control(folder))


def read_state(folder: Path) -> tuple[str, str]:
    """A run's state and a sentence about it. Raises CheckpointError if run.json is damaged."""
    if not os.path.isfile(folder / "run.json"):
        return "finished", ""  # a checkpoint that came without its run
    content = read_work(folder / "run.json", folder / "worker.lock", _is_expected)
    state, message = content.get("state"), str(content.get("message", ""))
    if state not in STATES:
        raise CheckpointError(f"The run {folder.name} can't be read: run.json has no known state; delete {folder}.")
    if state == "interrupted" and not message:
        message = _how_it_ended(folder, content)
    return state, message


def _is_expected(content: dict[str, Any]) -> bool:
    scheduler = content.get("scheduler")
    if scheduler and not content.get("claimed"):
        return cluster.is_at_work(str(scheduler))
    return is_starting(content)


def _how_it_ended(folder: Path, content: dict[str, Any]) -> str:
    if content.get("scheduler") and (problem := cluster.problem(str(content["scheduler"]))):
        return problem
    kept = "what it had saved is kept" if (folder / "model.safetensors").is_file() else "nothing had been saved yet"
    return (
        f"The training process was ended from outside, as for want of memory, before its work was done; {kept}."
        f"{last_line(folder)}"
    )


def _place_in_queue(folder: Path) -> str:
    ticket = _ticket_of(folder)
    n_before = sum(other < ticket for other, _, _ in _active())
    runs = "run is" if n_before == 1 else "runs are"
    return f"Waiting for its turn: {n_before} {runs} before it." if n_before else "Its training process is starting."


def active_runs() -> list[str]:
    """The names of the runs that are queued or under way, the youngest first."""
    return [name for _, name, _ in sorted(_active(), reverse=True)]


def _active() -> Iterator[tuple[int, str, str]]:
    """Ticket, name and state of each run that is queued or under way."""
    for folder in checkpoint_folders(checkpoint_root()):
        try:
            state = read_state(folder)[0] if (folder / "run.json").is_file() else "finished"
        except CheckpointError:
            continue  # damaged, or deleted meanwhile
        if state in ACTIVE_STATES:
            yield _ticket_of(folder), folder.name, state


def list_runs() -> list[Run]:
    """All runs and checkpoints, the youngest first; those that can't be read, too, as failed."""
    return sorted(map(_to_run, list_checkpoints()), key=lambda run: (-run.ticket, run.summary.name))


def _to_run(summary: Summary) -> Run:
    try:
        folder = find(summary.name)
        return Run(summary, read_state(folder)[0], _ticket_of(folder))
    except CheckpointError as error:  # damaged, or deleted meanwhile
        return Run(replace(summary, problem=summary.problem or str(error)), "failed", 0)


def owner_of(name: str) -> str:
    """Whoever started a run; empty if nobody in particular did."""
    path = find(name) / "owner.json"
    return str(read_json(path).get("owner", "")) if path.is_file() else ""


# Steering


def request_stop(name: str) -> None:
    """Asks a run to stop; it keeps what it has learnt."""
    _steer(name, lambda control: replace(control, stop=True))
    folder = find(name)
    with _queue_lock():
        if _waits_for_cluster(folder):
            write_state(folder, "stopped", "Stopped before it began.")


def pause(name: str) -> None:
    """Asks a run to wait between two batches."""
    _steer(name, lambda control: replace(control, paused=True, batches=0))


def go_on(name: str) -> None:
    """Asks a paused run to go on."""
    _steer(name, lambda control: replace(control, paused=False, batches=0))


def do_one_batch(name: str) -> None:
    """Asks a run to do one batch more, and to wait then."""
    _steer(name, lambda control: replace(control, paused=True, batches=control.batches + 1))


def slow_down(name: str, delay: float) -> None:
    """Asks a run to wait so many seconds after each batch, 0 to MAX_DELAY. Raises ConfigError for another number."""
    _steer(name, lambda control: replace(control, delay=delay))


def set_beta(name: str, beta: float) -> None:
    """The weight of the KL from the next batch on; a schedule of beta takes its share of it. 0 to 1,000."""
    _steer(name, lambda control: replace(control, beta=beta))


def set_learning_rate(name: str, learning_rate: float) -> None:
    """Adam's learning rate from the next batch on; the schedule takes its share of it. Above 0, at most 1."""
    _steer(name, lambda control: replace(control, learning_rate=learning_rate))


def _steer(name: str, change: Callable[[Control], Control]) -> None:
    folder = find(name)
    with _writing(folder), FileLock(folder / "control.lock"):
        write_json(folder / "control.json", asdict(change(read_control(folder))))


def read_control(folder: Path) -> Control:
    """What is asked of a run; nothing, where nobody asked or what was asked can't be read."""
    try:
        content = json.loads((folder / "control.json").read_text(encoding="utf-8"))
        return Control(**{field.name: content[field.name] for field in fields(Control)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # ConfigError is a ValueError
        return Control()


class _writing:
    """Says what is wrong where a run's folder can't be written. Raises RunError."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise RunError(unwritable(self.folder, error)) from error


# Putting away


def rename(name: str, new_name: str) -> None:
    """Raises CheckpointError if there is no such run, ConfigError for a name that can't be, RunError if it is at work
    or ships with the program."""
    check_name(new_name)
    folder = _folder_at_rest(name)
    _check_free(new_name)
    with _writing(folder):
        os.rename(folder, folder.parent / new_name)


def delete(name: str) -> None:
    """Deletes a run and all that it has learnt. Raises as `rename`."""
    folder = _folder_at_rest(name)
    with _writing(folder):
        doomed = tempfile.mkdtemp(prefix=".deleted-", dir=folder.parent)  # so that it is gone at once, and whole
        os.rename(folder, Path(doomed) / name)
        shutil.rmtree(doomed, ignore_errors=True)


def _folder_at_rest(name: str) -> Path:
    folder = find(name)
    if is_shipped(folder):
        raise RunError(f"{name} ships with the program and stays as it is.")
    try:
        is_active = read_state(folder)[0] in ACTIVE_STATES
    except CheckpointError:
        is_active = False  # damaged: may go
    if is_active:
        raise RunError(f"{name} is in training; stop it first.")
    return folder


# What the worker writes of a run's state


def write_state(folder: Path, state: str, message: str) -> None:
    write_json(folder / "run.json", next_state(folder, state, message))


def next_state(folder: Path, state: str, message: str) -> dict[str, Any]:
    """What run.json shall hold: the ticket stays."""
    try:
        content = read_json(folder / "run.json")
    except CheckpointError:
        content = {}
    kept = {key: content[key] for key in ("ticket", "scheduler") if key in content}
    return state_of(state, message, **kept)


def take_turn(folder: Path) -> bool:
    """Whether it is this queued run's turn; if so, it is preparing from now on.

    First come, first served: a run waits for all that were queued before it, and for a place among `max_runs`.
    """
    with _queue_lock():
        ticket = _ticket_of(folder)
        others = [(other, state) for other, name, state in _active() if name != folder.name]
        is_overtaken = any(state == "queued" and other < ticket for other, state in others)
        if is_overtaken or sum(state != "queued" for _, state in others) >= max_runs():
            return False
        write_state(folder, "preparing", "Preparing.")
        return True


def claim_next() -> str | None:
    """On a cluster: the run that has waited longest, which nobody else takes from now on; None if none waits."""
    with _queue_lock():
        waiting = [folder for folder in checkpoint_folders(checkpoint_root()) if _waits_for_cluster(folder)]
        if not waiting:
            return None
        folder = min(waiting, key=_ticket_of)
        claimed = next_state(folder, "queued", "Starting.") | {"claimed": True}
        write_json(folder / "run.json", claimed)
        return folder.name


def _waits_for_cluster(folder: Path) -> bool:
    try:
        content = read_json(folder / "run.json")
    except CheckpointError:
        return False
    return content.get("state") == "queued" and bool(content.get("scheduler")) and not content.get("claimed")


def append_line(folder: Path, item: Record | Change) -> None:
    """Writes a record or a change down in history.jsonl."""
    with open(folder / "history.jsonl", "a", encoding="utf-8") as history:
        history.write(json.dumps(asdict(item)) + "\n")


def rewrite_history(folder: Path, last_step: int) -> None:
    """Forgets the records after a step, which come again; changes of settings stay, to be made again at their steps."""
    records = [record for record in read_history(folder) if record.step <= last_step]
    items: list[Record | Change] = sorted([*records, *read_changes(folder)], key=lambda item: item.step)
    lines = "".join(json.dumps(asdict(item)) + "\n" for item in items)
    write_atomically({folder / "history.jsonl": lines.encode()})
