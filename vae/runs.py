"""A run in the background: start, watch, stop. It survives the browser and the server.

A run is a folder being written by a worker process; everyone else just reads it. `run.json` holds its state, `stop`
is the one file that goes the other way, and a lock, which the system lifts when the worker dies, tells whether the
worker lives.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae import data
from vae.checkpoint import (
    SHIPPED_ROOT,
    CheckpointError,
    Metrics,
    check_name,
    checkpoint_folders,
    checkpoint_root,
    find,
    load_latents,
    read_config,
    read_history,
    read_json,
    save_config,
    save_latents,
    save_results,
    write_atomically,
    write_json,
)
from vae.config import ConfigError, ModelConfig, TrainConfig
from vae.data import DataError, Images
from vae.latent import EMBEDDINGS, N_TSNE_STEPS, Latents, compute_embedding, encode_images, image_recon_loss
from vae.model import VAE
from vae.train import Record, TrainingError, held_out_terms, pick_device, train

STATES = ("queued", "preparing", "running", "stopped", "finished", "failed", "interrupted")
ACTIVE_STATES = ("queued", "preparing", "running")
START_SECONDS = 60  # that a new worker may take to import torch and lock its folder, on a slow machine
POINTS_SECONDS = 0.4  # between two looks at the points of a t-SNE under way
SAVE_COST = 0.02  # share of the training time that saving on the way may take


class RunError(RuntimeError):
    """A run that can't be started or went wrong; the message says why, and what to do."""


@dataclass(frozen=True)
class RunStatus:
    """A run as its folder tells it."""

    name: str
    state: str  # one of STATES
    message: str  # a sentence for people
    records: list[Record]

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES


@dataclass(frozen=True)
class EmbeddingStatus:
    """How far a t-SNE or UMAP is."""

    kind: str  # one of EMBEDDINGS
    state: str  # running or failed
    message: str
    fraction: float  # done, 0 to 1


# Starting and watching


def create(name: str, model: ModelConfig, training: TrainConfig) -> Path:
    """Claims the name and writes the folder of a run that is yet to begin. Returns the folder.

    Raises ConfigError for a name or setting that can't work, RunError if the folder can't be written.
    """
    check_name(name)
    info = data.dataset_info(training.dataset)
    if training.batch_size > info.n_train:
        raise ConfigError(
            "batch_size", f"{training.batch_size} was given; {training.dataset} has {info.n_train} training images"
        )
    if model.image_shape != info.image_shape:
        raise ConfigError("image_shape", f"{model.image_shape} was given; {training.dataset} has {info.image_shape}")
    pick_device(training.device)
    root = checkpoint_root()
    for folder in (root / name, SHIPPED_ROOT / name):
        if os.path.lexists(folder):
            raise ConfigError("name", f"{name!r} exists already; choose another, or delete {folder}")
    scratch = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        scratch.chmod(0o755)
        save_config(scratch, model, training)
        _write_state(scratch, "queued", "Waiting for its turn.")
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


def start(name: str, model: ModelConfig, training: TrainConfig) -> Path:
    """Creates a run and a worker process for it that outlives this one. Returns the run's folder.

    Raises as `create`, and RunError if the process can't be started.
    """
    folder = create(name, model, training)
    try:
        _spawn("work", name, folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"The training process can't be started ({error.strerror}); make room and try again.") from error
    return folder


def start_embedding(name: str, kind: str) -> None:
    """Computes a t-SNE or UMAP of a checkpoint's codes in a worker process and keeps it with the checkpoint.

    kind: one of EMBEDDINGS. Raises CheckpointError if there is no such checkpoint, RunError if it is in training or
    can't be written.
    """
    folder = find(name)
    _check_not_training(folder)
    job = embedding_status(name)
    if job and job.state == "running":
        return  # someone else has asked for it
    try:
        _write_embedding_state(folder, kind, "queued", "")
        _spawn(kind, name, folder)
    except OSError as error:
        raise RunError(_unwritable(folder, error)) from error


def _spawn(verb: str, name: str, folder: Path) -> None:
    package_root = Path(__file__).resolve().parent.parent
    paths = [str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(folder / "worker.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "vae", verb, name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )


def request_stop(name: str) -> None:
    """Asks a run to stop; it keeps what it has learnt."""
    folder = find(name)
    try:
        (folder / "stop").touch()
    except OSError as error:
        raise RunError(_unwritable(folder, error)) from error


def status(name: str) -> RunStatus:
    """Raises CheckpointError if there is no such run, or its files are damaged."""
    folder = find(name)
    return RunStatus(name, *_read_state(folder), read_history(folder))


def embedding_status(name: str) -> EmbeddingStatus | None:
    """How far the t-SNE or UMAP of a checkpoint's codes is; None if none is being made."""
    folder = find(name)
    try:
        content = _read_work(folder / "embedding.json", folder / "embedding.lock")
        kind, state, message = content["kind"], content["state"], str(content["message"])
        fraction, title = content["done"] / content["total"], EMBEDDINGS[kind]
    except (CheckpointError, KeyError, TypeError, ArithmeticError):
        return None
    if state in ACTIVE_STATES:
        return EmbeddingStatus(kind, "running", message, min(max(fraction, 0.0), 1.0))
    if state == "interrupted":
        message = f"The {title} ended before it was done.{_last_line(folder)}"
    return EmbeddingStatus(kind, "failed", message, 0.0)


def embedding_so_far(name: str) -> Tensor | None:
    """Where the points of a t-SNE under way lie just now, (N, 2) float32; None if that is not known."""
    try:
        points = load_tensors((find(name) / "embedding.points").read_bytes())["points"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return points.float() if points.ndim == 2 and points.shape[1] == 2 else None


def active_runs() -> list[str]:
    """The names of the runs that are queued or running, the youngest first."""
    created: dict[str, float] = {}
    for folder in checkpoint_folders(checkpoint_root()):
        try:
            if _read_state(folder)[0] in ACTIVE_STATES:
                created[folder.name] = (folder / "config.json").stat().st_mtime  # of all its files, written but once
        except (CheckpointError, OSError):
            continue  # damaged, or deleted meanwhile
    return sorted(created, key=created.__getitem__, reverse=True)


def _read_state(folder: Path) -> tuple[str, str]:
    """A run's state and a sentence about it. Raises CheckpointError if run.json is damaged."""
    if not os.path.isfile(folder / "run.json"):
        return "finished", ""  # a checkpoint that came without its run
    content = _read_work(folder / "run.json", folder / "worker.lock")
    state, message = content.get("state"), str(content.get("message", ""))
    if state not in STATES:
        raise CheckpointError(f"The run {folder.name} can't be read: run.json has no known state; delete {folder}.")
    if state == "interrupted" and not message:
        kept = "what it had saved is kept" if (folder / "model.safetensors").is_file() else "nothing had been saved yet"
        message = f"The training process ended before its work was done; {kept}.{_last_line(folder)}"
    return state, message


def _read_work(state_path: Path, lock_path: Path) -> dict[str, Any]:
    """What a worker wrote of its state; `interrupted` without a message if that worker is gone."""
    content = read_json(state_path)
    if content.get("state") not in ACTIVE_STATES or _worker_lives(lock_path, content):
        return content
    # A worker writes its last state before it lets go of the lock: it may have done both since the first look.
    if read_json(state_path) != content:
        return _read_work(state_path, lock_path)
    return content | {"state": "interrupted", "message": ""}


def _worker_lives(lock_path: Path, content: dict[str, Any]) -> bool:
    now, since = time.time(), content.get("time")
    recent = isinstance(since, int | float) and now - START_SECONDS < since < now + START_SECONDS
    if content["state"] == "queued" and recent:
        return True  # it may not have got as far as its lock
    try:
        with FileLock(lock_path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # where nobody can write, nobody works


def _last_line(folder: Path) -> str:
    """What the worker said last, for a run that ended in a way it could not record itself."""
    try:
        lines = (folder / "worker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" Its last word: {lines[-1][:300]}" if lines else ""


def _write_state(folder: Path, state: str, message: str) -> None:
    write_json(folder / "run.json", {"state": state, "message": message, "time": time.time()})


def _write_embedding_state(
    folder: Path, kind: str, state: str, message: str, done: int = 0, total: int = N_TSNE_STEPS
) -> None:
    content = {"kind": kind, "state": state, "message": message, "done": done, "total": total, "time": time.time()}
    write_json(folder / "embedding.json", content)


def _unwritable(folder: Path, error: OSError) -> str:
    return f"{folder} can't be written ({error.strerror}); make room there and start again. What was saved is kept."


# Working


def work(name: str) -> Iterator[Record]:
    """Does the work of a run that `create` made, in this process: trains, and writes its folder. Yields the records.

    Whatever goes wrong is written into the run's state, then raised: DataError, TrainingError, RunError.
    """
    folder = find(name)
    should_stop = _StopFile(folder)
    with _locked(folder / "worker.lock"):
        if read_json(folder / "run.json").get("state") != "queued":
            raise RunError(f"{name} has been trained already; start a run with another name.")
        with _recorded(folder, _write_state), _training_slot(should_stop) as our_turn:
            if our_turn:
                yield from _train_in(folder, should_stop)
            else:
                _write_state(folder, "stopped", "Stopped before it began.")


def _train_in(folder: Path, should_stop: Callable[[], bool]) -> Iterator[Record]:
    model_config, config = read_config(folder)
    configure_torch(config)
    _write_state(folder, "preparing", f"Loading {data.dataset_info(config.dataset).title}.")
    train_data = data.load(config.dataset, "train", _DownloadProgress(folder))
    held_out = data.load(config.dataset, "held_out")
    model = VAE(model_config)
    saver = _Saver(folder, config, held_out)
    _write_state(folder, "running", "Training.")
    with open(folder / "history.jsonl", "a", encoding="utf-8") as history:
        for record in train(model, config, train_data.images, held_out.images, should_stop):
            history.write(json.dumps(asdict(record)) + "\n")
            history.flush()
            saver.offer(model, record)
            yield record
    _write_state(folder, "running", "Encoding the held-out images.")
    saver.save(model, record)
    if record.step == record.n_steps:
        _write_state(folder, "finished", f"Trained for {config.epochs} epochs in {record.seconds:.0f} s.")
    else:
        message = f"Stopped at epoch {record.epoch:.1f} of {config.epochs}; what was learnt is kept."
        _write_state(folder, "stopped", message)


def configure_torch(config: TrainConfig) -> None:
    """Threads, for a process of its own: one core is left to the app, which halves training if they share it."""
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) - 1))
    # Threads that torch starts take this over from the thread that starts them; see train.fast_arithmetic.
    torch.set_flush_denormal(True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Marks a folder as worked on, as long as this process lives. Raises RunError if another one works on it."""
    lock = FileLock(path, timeout=1)  # whoever asks whether a worker lives holds it for a moment
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"Another process works on {path.parent} already; wait until it is done.") from error
    except OSError as error:
        raise RunError(_unwritable(path.parent, error)) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _recorded(folder: Path, write_state: Callable[[Path, str, str], None]) -> Iterator[None]:
    """Writes what goes wrong inside into the state, as a sentence for people, and raises it as such."""
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt):  # whoever watched `work` went away
        _try_to_write(write_state, folder, "interrupted", "Interrupted; what had been saved is kept.")
        raise
    except Exception as error:
        sentence = _explain(error, folder)
        _try_to_write(write_state, folder, "failed", sentence or f"The worker failed: {error!r}")
        if sentence is None or sentence == str(error):
            raise
        raise RunError(sentence) from error


def _explain(error: Exception, folder: Path) -> str | None:
    """The sentence for an error that people can do something about; None for a slip of ours."""
    if isinstance(error, DataError | TrainingError | ConfigError | CheckpointError | RunError):
        return str(error)
    if isinstance(error, OSError):
        return _unwritable(folder, error)
    # On a CPU torch raises a plain RuntimeError.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "The memory is used up; use a smaller batch or network."
    return None


def _try_to_write(write_state: Callable[[Path, str, str], None], folder: Path, state: str, message: str) -> None:
    try:
        write_state(folder, state, message)
    except OSError:
        pass  # no room even for that: `status` finds the worker gone, and says so


@contextmanager
def _training_slot(should_stop: Callable[[], bool]) -> Iterator[bool]:
    """One run at a time: two that share the cores would both crawl. Others wait here; False if stopped meanwhile."""
    lock = FileLock(checkpoint_root() / ".training.lock")
    while not should_stop():
        try:
            lock.acquire(timeout=0.2, poll_interval=0.05)
        except Timeout:
            continue
        try:
            yield True
        finally:
            lock.release()
        return
    yield False


class _StopFile:
    """Whether someone asked the run to stop; looks at the disk ten times a second at most."""

    def __init__(self, folder: Path):
        self.path, self.next_look = folder / "stop", 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self.next_look:
            return False
        self.next_look = now + 0.1
        return self.path.exists()


class _DownloadProgress:
    """Writes how far a download is into the run's state."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, n_bytes: int, total: int) -> None:
        message = f"Downloading the data set: {n_bytes / 1e6:.1f} of {total / 1e6:.1f} MB."
        _write_state(self.folder, "preparing", message)


class _Saver:
    """Saves weights, codes and figures at the end, and on the way as often as it costs 2 % of the time."""

    def __init__(self, folder: Path, config: TrainConfig, held_out: Images):
        self.folder, self.config, self.held_out = folder, config, held_out
        self.next_save = 5.0  # seconds of training

    def offer(self, model: VAE, record: Record) -> None:
        if record.held_out is None or record.seconds < self.next_save or record.step == record.n_steps:
            return
        started = time.perf_counter()
        self.save(model, record)
        self.next_save = record.seconds + (time.perf_counter() - started) / SAVE_COST

    def save(self, model: VAE, record: Record) -> None:
        """What is measured and encoded is the model as stored, so the map shows what loading will give.

        Raises TrainingError, and leaves what was saved before, if that model is of no use.
        """
        stored = VAE(model.config).eval()
        stored.load_state_dict({name: self._as_stored(value) for name, value in model.state_dict().items()})
        mu, logvar = (self._as_stored(codes) for codes in encode_images(stored, self.held_out.images))
        terms = held_out_terms(stored, self.held_out.images, beta=1.0)
        if not (math.isfinite(terms.loss) and mu.isfinite().all() and logvar.isfinite().all()):
            raise TrainingError(
                "The model can't be kept: as stored, its held-out loss is not a number; use a lower learning rate"
                + (", or store it in full precision." if self.config.half else ".")
            )
        metrics = Metrics(len(mu), -terms.loss, terms.recon_loss, terms.kl, record.epoch, record.seconds)
        values = {"recon_loss": image_recon_loss(stored, self.held_out.images, mu)}
        values |= data.known_factors(self.config.dataset, "held_out")
        latents = Latents(mu, logvar, self.held_out.labels, values=values)
        save_results(self.folder, stored, latents, metrics, self.config.half)

    def _as_stored(self, value: Tensor) -> Tensor:
        value = value.detach().cpu()
        return value.half().float() if self.config.half else value


def work_embedding(name: str, kind: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Computes a t-SNE or UMAP of a checkpoint's codes (seed 0), in this process, and keeps it with the checkpoint.

    kind: one of EMBEDDINGS. progress is called with steps done, steps in all; the folder's embedding.json says the same
    to whoever watches, and embedding.points where the points lie meanwhile.
    Raises CheckpointError if the checkpoint can't be read, RunError if it is in training or can't be written.
    """
    folder = find(name)
    _check_not_training(folder)
    next_look = 0.0

    def report(done: int, total: int, points: Tensor | None = None) -> None:
        nonlocal next_look
        _write_embedding_state(folder, kind, "running", "", done, total)
        if points is not None and time.monotonic() >= next_look:
            write_atomically({folder / "embedding.points": tensors_to_bytes({"points": points})})
            next_look = time.monotonic() + POINTS_SECONDS
        progress(done, total)

    def write_state(folder: Path, state: str, message: str) -> None:
        _write_embedding_state(folder, kind, state, message)

    with _locked(folder / "embedding.lock"), _recorded(folder, write_state):
        (folder / "embedding.points").unlink(missing_ok=True)  # where the points of a job that failed came to lie
        report(0, N_TSNE_STEPS)
        _, config = read_config(folder)
        latents = load_latents(folder)
        try:
            points = compute_embedding(kind, latents.mu, report)
        except ValueError as error:
            raise RunError(f"There is no {EMBEDDINGS[kind]} of {name}: {error}.") from error
        save_latents(folder, replace(latents, embeddings={**latents.embeddings, kind: points}), config.half)
        for leftover in ("embedding.points", "embedding.json"):
            (folder / leftover).unlink(missing_ok=True)


def _check_not_training(folder: Path) -> None:
    if _read_state(folder)[0] in ACTIVE_STATES:
        raise RunError(f"{folder.name} is in training, and its codes still change; make the map when it has ended.")
