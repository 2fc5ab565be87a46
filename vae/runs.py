"""A run in the background: start, watch, stop. It survives the browser and the server.

A run is a folder being written by a worker process; everyone else just reads it. `run.json` holds its state, `stop`
is the one file that goes the other way, and a lock, which the system lifts when the worker dies, tells whether the
worker lives.
"""

from __future__ import annotations

import json
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

import torch
from filelock import FileLock, Timeout

from vae import data
from vae.checkpoint import (
    CheckpointError,
    Metrics,
    check_name,
    checkpoint_root,
    find,
    load_latents,
    read_config,
    read_history,
    read_json,
    save_config,
    save_latents,
    save_weights,
    write_json,
)
from vae.config import ConfigError, ModelConfig, TrainConfig
from vae.data import DataError, Images
from vae.latent import Latents, compute_tsne, encode_images
from vae.model import VAE
from vae.train import Record, TrainingError, held_out_terms, pick_device, train

STATES = ("queued", "preparing", "running", "stopped", "finished", "failed", "interrupted")
ACTIVE_STATES = ("queued", "preparing", "running")
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
class TsneStatus:
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
    try:
        if (root / name).exists() or find(name):
            raise ConfigError("name", f"{name!r} exists already; choose another, or delete {find(name)}")
    except CheckpointError:
        pass  # the name is free
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
        if (root / name).exists():
            raise ConfigError("name", f"{name!r} exists already; choose another") from error
        raise RunError(
            f"The run can't be written to {root} ({error.strerror}); make room there, "
            "or set LATENTARIUM_CHECKPOINTS to another folder."
        ) from error
    return root / name


def start(name: str, model: ModelConfig, training: TrainConfig) -> Path:
    """Creates a run and a worker process for it that outlives this one. Returns the run's folder. Raises as `create`."""
    folder = create(name, model, training)
    _spawn("work", name, folder / "worker.log")
    return folder


def start_tsne(name: str) -> None:
    """Computes the t-SNE of a checkpoint's codes in a worker process and keeps it with the checkpoint."""
    folder = find(name)
    try:
        _write_tsne_state(folder, "running", "")
        _spawn("tsne", name, folder / "worker.log")
    except OSError as error:
        raise RunError(f"The t-SNE can't be written to {folder} ({error.strerror}); make room there.") from error


def _spawn(verb: str, name: str, log_path: Path) -> None:
    package_root = Path(__file__).resolve().parent.parent
    paths = [str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(log_path, "ab") as log:
        subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", "vae", verb, name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )


def request_stop(name: str) -> None:
    """Asks a run to stop; it keeps what it has learnt."""
    (find(name) / "stop").touch()


def status(name: str) -> RunStatus:
    """Raises CheckpointError if there is no such run."""
    folder = find(name)
    records = read_history(folder)
    if not (folder / "run.json").is_file():
        return RunStatus(name, "finished", "", records)
    content = read_json(folder / "run.json")
    state, message = content.get("state"), str(content.get("message", ""))
    if state not in STATES:
        raise CheckpointError(f"The run {name} can't be read: run.json has no known state; delete {folder}.")
    if state in ACTIVE_STATES and not _worker_lives(folder / "worker.lock", content.get("time", 0)):
        kept = "what it had saved is kept" if (folder / "model.safetensors").is_file() else "nothing had been saved yet"
        reason = _last_line(folder / "worker.log")
        state, message = "interrupted", f"The training process ended before its work was done; {kept}.{reason}"
    return RunStatus(name, state, message, records)


def tsne_status(name: str) -> TsneStatus | None:
    """How far the t-SNE of a checkpoint's codes is; None if none is being made."""
    folder = find(name)
    try:
        content = read_json(folder / "tsne.json")
        job = TsneStatus(content["state"], str(content["message"]), content["done"] / content["total"])
    except (CheckpointError, KeyError, TypeError, ZeroDivisionError):
        return None
    if job.state == "running" and not _worker_lives(folder / "tsne.lock", content.get("time", 0)):
        return TsneStatus("failed", f"The t-SNE ended before it was done.{_last_line(folder / 'worker.log')}", 0.0)
    return job


def active_runs() -> list[str]:
    """The names of the runs that are queued or running, the youngest first."""
    root = checkpoint_root()
    candidates = [path.parent for path in root.glob("*/run.json")] if root.is_dir() else []
    names = []
    for folder in sorted(candidates, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            if status(folder.name).is_active:
                names.append(folder.name)
        except CheckpointError:
            continue
    return names


def _write_state(folder: Path, state: str, message: str) -> None:
    write_json(folder / "run.json", {"state": state, "message": message, "time": time.time()})


def _worker_lives(lock_path: Path, state_time: float) -> bool:
    try:
        with FileLock(lock_path, timeout=0):
            # Nobody holds it: a new worker needs a few seconds to import torch before it does.
            return abs(time.time() - state_time) < 20
    except Timeout:
        return True


def _last_line(log_path: Path) -> str:
    """What the worker said last, for a run that ended in a way it could not record itself."""
    try:
        lines = log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" Its last word: {lines[-1][:300]}" if lines else ""


# Working


def work(name: str) -> Iterator[Record]:
    """Does the work of a run that `create` made, in this process: trains, and writes its folder. Yields the records.

    Whatever goes wrong is written into the run's state, then raised: DataError, TrainingError, RunError.
    """
    folder = find(name)
    should_stop = _StopFile(folder)
    with FileLock(folder / "worker.lock"), _recorded(folder), _training_slot(should_stop) as our_turn:
        if not our_turn:
            _write_state(folder, "stopped", "Stopped before it began.")
            return
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
            _write_state(
                folder, "stopped", f"Stopped at epoch {record.epoch:.1f} of {config.epochs}; what was learnt is kept."
            )


def configure_torch(config: TrainConfig) -> None:
    """Threads, for a process of its own: one core is left to the app, which halves training if they share it."""
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) - 1))
    # Threads that torch starts take this over from the thread that starts them; see train.fast_arithmetic.
    torch.set_flush_denormal(True)


@contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """Writes what goes wrong inside into the run's state, as a sentence."""
    try:
        yield
    except (DataError, TrainingError, ConfigError, CheckpointError) as error:
        _write_state(folder, "failed", str(error))
        raise
    except OSError as error:
        sentence = f"The run can't be written to {folder} ({error.strerror}); make room there and start again. What it had saved is kept."
        _try_to_write_state(folder, sentence)
        raise RunError(sentence) from error
    except torch.OutOfMemoryError as error:
        sentence = "The memory of the device is used up; use a smaller batch or network."
        _try_to_write_state(folder, sentence)
        raise RunError(sentence) from error
    except GeneratorExit:  # whoever watched `work` went away, as by Ctrl-C
        _try_to_write_state(folder, "Interrupted; what had been saved is kept.")
        raise


def _try_to_write_state(folder: Path, sentence: str) -> None:
    try:
        _write_state(folder, "failed", sentence)
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
        """What is measured and encoded is the model as stored, so the map shows what loading will give."""
        stored = VAE(model.config).eval()
        weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        stored.load_state_dict({name: (w.half().float() if self.config.half else w) for name, w in weights.items()})
        mu, logvar = encode_images(stored, self.held_out.images)
        terms = held_out_terms(stored, self.held_out.images, beta=1.0)
        metrics = Metrics(len(mu), -terms.loss, terms.recon_loss, terms.kl, record.epoch, record.seconds)
        save_weights(self.folder, stored, self.config.half)
        save_latents(self.folder, Latents(mu, logvar, self.held_out.labels), self.config.half)
        write_json(self.folder / "metrics.json", asdict(metrics))


def work_tsne(name: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Computes the t-SNE of a checkpoint's codes (seed 0), in this process, and keeps it with the checkpoint.

    progress is called with steps done, steps in all; the folder's tsne.json says the same to whoever watches.
    """
    folder = find(name)

    def report(done: int, total: int) -> None:
        _write_tsne_state(folder, "running", "", done, total)
        if progress:
            progress(done, total)

    try:
        with FileLock(folder / "tsne.lock"):
            report(0, 1)
            _, config = read_config(folder)
            latents = load_latents(folder)
            points = compute_tsne(latents.mu, progress=report)
            save_latents(folder, replace(latents, tsne=points), config.half)
            (folder / "tsne.json").unlink(missing_ok=True)
    except CheckpointError as error:
        _write_tsne_state(folder, "failed", str(error))
        raise
    except OSError as error:
        raise RunError(f"The t-SNE can't be written to {folder} ({error.strerror}); make room there.") from error


def _write_tsne_state(folder: Path, state: str, message: str, done: int = 0, total: int = 1) -> None:
    content = {"state": state, "message": message, "done": done, "total": total, "time": time.time()}
    write_json(folder / "tsne.json", content)
