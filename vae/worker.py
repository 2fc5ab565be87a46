"""The worker of a run: trains it, and writes its folder (runs.py says which file is what)."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae import data
from vae.checkpoint import (
    CheckpointError,
    Metrics,
    find,
    read_changes,
    read_config,
    read_json,
    save_results,
    write_atomically,
)
from vae.config import ConfigError, ModelConfig, TrainConfig, has_prior
from vae.data import Images
from vae.evaluate import active_units
from vae.film import EARLY_SECONDS, LIVE_FILE, Camera, FilmWriter, write_live
from vae.latent import Latents, encode_images, image_recon_loss
from vae.model import VAE
from vae.processes import RunError, locked, recorded
from vae.runs import (
    RESUME_FILE,
    Control,
    append_line,
    next_state,
    read_control,
    rewrite_history,
    take_turn,
    write_state,
)
from vae.train import Change, Record, Training, TrainingError, fast_arithmetic, held_out_elbo

LOOK_SECONDS = 0.1  # between two looks at what is asked of the run
TURN_SECONDS = 0.25  # between two looks at the queue
SAVE_COST = 0.02  # share of the training time that saving the results on the way may take; the same for the state
FRAME_COST, LATER_FRAME_COST = 0.03, 0.015  # share that frames of the film may take: at first, and then
FRAME_SECONDS = (0.05, 0.4)  # between two frames at first, whatever they cost: at least and at most
LATER_FRAME_SECONDS = 0.9  # at least


class Stopped(Exception):
    """Someone asked the run to stop before there was anything to keep."""


def work(name: str, is_claimed: bool = False) -> Iterator[Record]:
    """Does the work of a run that was queued, in this process: trains, and writes its folder. Yields the records.

    is_claimed: by `runs.claim_next`; else it waits for its turn among the runs of this machine.
    Whatever goes wrong is written into the run's state, then raised: DataError, TrainingError, RunError.
    """
    folder = find(name)
    with locked(folder / "worker.lock"):
        if read_json(folder / "run.json").get("state") != "queued":
            raise RunError(f"{name} has been trained already; start a run with another name.")
        with recorded(folder / "run.json", partial(next_state, folder)):
            try:
                if is_claimed:
                    write_state(folder, "preparing", "Preparing.")
                else:
                    _wait_for_turn(folder)
                yield from _train_in(folder)
            except Stopped:
                write_state(folder, "stopped", "Stopped before it began.")


def _wait_for_turn(folder: Path) -> None:
    while not take_turn(folder):
        _raise_if_stopped(folder)
        time.sleep(TURN_SECONDS)


def _raise_if_stopped(folder: Path, *_progress: int) -> None:
    if read_control(folder).stop:
        raise Stopped


def _train_in(folder: Path) -> Iterator[Record]:
    model_config, config = read_config(folder)
    configure_torch(config)
    _raise_if_stopped(folder)
    write_state(folder, "preparing", f"Loading {data.dataset_info(config.dataset).title}.")
    drawn_before = "grey" if config.targets == "dynamic" else config.targets
    train_data = data.load_targets(config.dataset, "train", drawn_before, _DownloadProgress(folder))
    held_out = data.load_targets(config.dataset, "held_out", config.targets)
    if config.left_out_class >= 0:
        train_data = data.without_class(train_data, config.left_out_class)
    labels = train_data.labels, held_out.labels
    training = Training(VAE(model_config), config, train_data.images, held_out.images, *labels)
    take_up(folder, training)
    diary = _Diary(folder, training, held_out)
    steering = _Steering(folder, training, diary.film)
    write_state(folder, "running", "Training.")
    for record in training.records(steering):
        diary.keep(record)
        yield record
    diary.close(is_finished=training.step == training.n_steps)
    if training.step == training.n_steps:
        message = f"Trained for {config.epochs} epochs in {training.seconds:.0f} s."
        write_state(folder, "finished", message)
    else:
        message = f"Stopped at epoch {training.epoch:.1f} of {config.epochs}; what was learnt is kept."
        write_state(folder, "stopped", message)


def configure_torch(config: TrainConfig) -> None:
    """Threads, for a process of its own: $LATENTARIUM_THREADS where the config leaves it open, else all cores but one,
    which is the app's: training goes at half the speed if they share it."""
    torch.set_num_threads(config.threads or _threads_of_machine())
    # Threads that torch starts take this over from the thread that starts them; see train.fast_arithmetic.
    torch.set_flush_denormal(True)


def _threads_of_machine() -> int:
    text = os.environ.get("LATENTARIUM_THREADS")
    if not text:
        return max(1, (os.cpu_count() or 2) - 1)
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ConfigError("LATENTARIUM_THREADS", f"{text!r} was given; use a whole number from 1 to 1,024")
    return int(text)


class _DownloadProgress:
    """Writes how far a download is into the run's state, and ends it if the run is asked to stop."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, n_bytes: int, total: int) -> None:
        _raise_if_stopped(self.folder)
        message = f"Downloading the data set: {n_bytes / 1e6:.1f} of {total / 1e6:.1f} MB."
        write_state(self.folder, "preparing", message)


def rehearse() -> None:
    """Trains a few steps for nothing, so that all that torch and scikit-learn load on first use is there in time."""
    n_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        images = data.load("digits", "held_out")
        config = TrainConfig("digits", epochs=1, threads=1, device="cpu")
        configure_torch(config)
        training = Training(VAE(ModelConfig((1, 8, 8), widths=(8,))), config, images.images, images.images)
        diary = _Diary(Path(folder), training, images)
        for record in training.records():
            diary.keep(record)
            diary.film.offer(forced=True)
    torch.set_num_threads(n_threads)  # what follows may be no training
    torch.set_flush_denormal(False)


# Taking up again


def take_up(folder: Path, training: Training) -> None:
    """Goes on where the run was kept last; a run of which nothing was kept begins anew.

    Raises CheckpointError if what was kept is damaged.
    """
    path = folder / RESUME_FILE
    if path.is_file():
        try:
            state = load_tensors(path.read_bytes())
            if not any(name.startswith("model.") for name in state):
                state |= {f"model.{name}": value for name, value in _stored_weights(folder).items()}
            training.load_state(state)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder.name} can't be taken up again: {RESUME_FILE} is damaged; start a new run from its settings."
            ) from error
    if (folder / "history.jsonl").is_file():
        rewrite_history(folder, training.step if training.has_begun else -1)


def _stored_weights(folder: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_tensors((folder / "model.safetensors").read_bytes()).items()}


class _Steering:
    """What is asked of the run, done between two steps: pause, one batch, slow motion, another beta or learning rate.

    Called before each step; returns whether to stop. Looks at the disk LOOK_SECONDS apart at most.
    """

    def __init__(self, folder: Path, training: Training, film: _Filming):
        self.folder, self.training, self.film = folder, training, film
        self.next_look, self.control = 0.0, Control()
        self.batches_done = 0  # of control.batches
        self.is_paused = False
        # Changes that were made before the run was taken up again, at steps that are still to come.
        self.pending = [change for change in read_changes(folder) if change.step >= training.step]
        self.targets = {"beta": training.beta, "learning_rate": training.learning_rate}
        self.targets |= {change.setting: change.value for change in self.pending}

    def __call__(self) -> bool:
        self._repeat_changes()
        self._look()
        self.film.offer(forced=self.training.every_step)
        if self.control.delay and not self.control.paused:
            self._wait(lambda: False, self.control.delay)
        if self.control.paused:
            self._pause()
        if self.control.stop:
            write_state(self.folder, "running", "Stopping; what was learnt is being saved.")
        return self.control.stop

    def _look(self) -> None:
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + LOOK_SECONDS
        if not self.folder.is_dir():
            raise RunError(f"{self.folder} was deleted while the run went on.")
        self.control = read_control(self.folder)
        self.training.every_step = self.control.paused or self.control.delay > 0
        for setting in ("beta", "learning_rate"):
            value = getattr(self.control, setting)
            if value is not None and value != self.targets[setting]:
                self._change(setting, value)

    def _change(self, setting: str, value: float) -> None:
        """Someone asks for another value: it is written down, so that a run that is taken up again does the same."""
        append_line(self.folder, Change(self.training.step, self.training.epoch, setting, value))
        setattr(self.training, setting, value)
        self.targets[setting] = value
        self.pending = [change for change in self.pending if change.setting != setting]

    def _repeat_changes(self) -> None:
        while self.pending and self.pending[0].step <= self.training.step:
            change = self.pending.pop(0)
            if change.setting != "epochs":
                setattr(self.training, change.setting, change.value)

    def _pause(self) -> None:
        if not self.is_paused:
            self.is_paused, self.batches_done = True, 0
        write_state(self.folder, "paused", f"Paused after step {self.training.step:,}.")
        self._wait(lambda: not self.control.paused or self.control.batches > self.batches_done)
        if self.control.paused:
            self.batches_done += 1
        else:
            self.is_paused = False
            write_state(self.folder, "running", "Training.")

    def _wait(self, is_over: Callable[[], bool], seconds: float = math.inf) -> None:
        """Waits until it is over, or the time is up, or the run is asked to stop. None of that counts as training."""
        started = time.monotonic()
        while not (is_over() or self.control.stop or time.monotonic() - started >= seconds):
            time.sleep(min(0.03, max(0.0, started + seconds - time.monotonic())))
            self._look()
        self.training.leave_out(time.monotonic() - started)


# Writing it all down


class _Diary:
    """Writes history, film, state and results of a run: as often as each may cost, and all of them at the end."""

    def __init__(self, folder: Path, training: Training, held_out: Images):
        self.folder, self.training = folder, training
        self.film = _Filming(folder, training, held_out)
        self.results = _Results(folder, training, held_out)
        self.next_results, self.next_state = training.seconds + 5.0, training.seconds + 0.5  # seconds of training

    def keep(self, record: Record) -> None:
        append_line(self.folder, record)
        if record.step == record.n_steps:
            return  # `close` follows
        if record.seconds >= self.next_state:
            self.next_state = record.seconds + self._cost(self._save_state)
        if record.held_out and record.seconds >= self.next_results:
            self.next_results = record.seconds + self._cost(self.results.save)

    def _cost(self, save: Callable[[], None]) -> float:
        """Saves; returns after how many seconds that may be done again."""
        started = time.perf_counter()
        save()
        return (time.perf_counter() - started) / SAVE_COST

    def _save_state(self) -> None:
        write_atomically({self.folder / RESUME_FILE: tensors_to_bytes(self.training.state())})

    def close(self, is_finished: bool) -> None:
        """The last state first: should the worker be killed in between, the run is taken up again, and ends here."""
        self._save_state()
        write_state(self.folder, "running", "Encoding the held-out images.")
        self.film.offer(forced=True)
        self.results.save()
        if is_finished:
            self._slim_state()
        (self.folder / LIVE_FILE).unlink(missing_ok=True)

    def _slim_state(self) -> None:
        """Of a finished run, the weights are in model.safetensors; more epochs need no more precision than it has."""
        state = {name: value for name, value in self.training.state().items() if not name.startswith("model.")}
        if self.training.config.half:
            state = {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in state.items()}
        write_atomically({self.folder / RESUME_FILE: tensors_to_bytes(state)})


class _Filming:
    """Takes the frames of a run's film: often at first, then as often as they may cost; each is also the live view."""

    def __init__(self, folder: Path, training: Training, held_out: Images):
        self.folder, self.training, self.camera = (
            folder,
            training,
            Camera(held_out, training.config),
        )
        self.writer = FilmWriter(folder, self.camera.still(), training.step if training.has_begun else -1)
        self.camera.follow(self.writer.frames)
        self.next_frame, self.last_step = 0.0, -1

    def offer(self, forced: bool = False) -> None:
        started = time.monotonic()
        step = self.training.step
        if step == self.last_step or (started < self.next_frame and not forced):
            return
        with fast_arithmetic():
            frame = self.camera.take(self.training.model, step, self.training.epoch)
        if frame is None:
            return  # the next record says what is wrong
        self.last_step = step
        self.writer.add(frame)
        write_live(self.folder, self.writer.still, frame, self.training.model.decoder)
        cost = time.monotonic() - started
        if self.training.seconds < EARLY_SECONDS:
            least, most = FRAME_SECONDS
            interval = min(most, max(least, cost / FRAME_COST))
        else:
            interval = max(LATER_FRAME_SECONDS, cost / LATER_FRAME_COST)
        self.next_frame = started + interval * self.writer.stride


class _Results:
    """Saves what others open: weights, codes and figures."""

    def __init__(self, folder: Path, training: Training, held_out: Images):
        self.folder, self.training, self.held_out = folder, training, held_out
        self.config = training.config

    def save(self) -> None:
        """What is measured and encoded is the model as stored, so the map shows what loading will give.

        Raises TrainingError, and leaves what was saved before, if that model is of no use.
        """
        model, images, labels = self.training.model, self.held_out.images, self.held_out.labels
        stored = VAE(model.config).eval()
        stored.load_state_dict({name: self._as_stored(value) for name, value in model.state_dict().items()})
        mu, logvar = (self._as_stored(codes) for codes in encode_images(stored, images, labels))
        terms = held_out_elbo(stored, images, labels)
        if not (math.isfinite(terms.loss) and mu.isfinite().all() and not logvar.isnan().any()):
            raise TrainingError(
                "The model can't be kept: as stored, its held-out loss is not a number; use a lower learning rate"
                + (", or store it in full precision." if self.config.half else ".")
            )
        metrics = Metrics(
            len(mu), None if terms.kl is None else -terms.loss, terms.recon_loss, terms.kl, self.training.epoch,
            self.training.seconds, active_units(stored.decoder_input(mu), has_prior(model.config, self.config)),
        )  # fmt: skip
        values = {"recon_loss": image_recon_loss(stored, images, mu, labels)}
        values |= data.known_factors(self.config.dataset, "held_out")
        save_results(self.folder, stored, Latents(mu, logvar, labels, values=values), metrics, self.config.half)

    def _as_stored(self, value: Tensor) -> Tensor:
        value = value.detach().cpu()
        return value.half().float() if self.config.half else value
