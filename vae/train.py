"""`train(...)`: a generator of progress records. Nothing else trains."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.config import ConfigError, TrainConfig
from vae.data import to_float
from vae.model import VAE
from vae.objectives import kl_per_dim, recon_loss

RECORDS_PER_EPOCH = 10
MAX_RECORDS = 1000  # of a long run: its history stays small and its chart quick
N_LIVE_HELD_OUT = 2000  # held-out images behind the live curves: 1 % of an epoch's work on MNIST


class TrainingError(RuntimeError):
    """Training that can't go on, as with a loss that is no longer a number; the message says what to change."""


@dataclass(frozen=True)
class Terms:
    """The loss and its parts: nats per image, summed over pixels and latent dimensions, mean over images."""

    loss: float  # recon_loss + beta * kl
    recon_loss: float
    kl: float


@dataclass(frozen=True)
class Record:
    """Where training stands. `train` is the mean over the images since the last record."""

    step: int  # 0 is before the first step
    n_steps: int  # of the whole run
    epoch: float  # passes over the training images so far
    seconds: float  # spent training so far
    seconds_left: float
    images_per_second: float  # since the last record
    train: Terms | None  # None before the first step
    held_out: Terms | None  # over the first N_LIVE_HELD_OUT held-out images; None between epochs
    beta: float | None = None  # weight of the KL in the last step; None in a history older than this field
    learning_rate: float | None = None  # Adam's in the last step


@dataclass(frozen=True)
class Change:
    """A setting that someone changed while the run went on."""

    step: int  # the steps after this one are under the new value
    epoch: float
    setting: str  # beta, learning_rate or epochs
    value: float


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA or Apple GPU where torch finds one, else the CPU.

    Raises ConfigError if a named one is not there.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    if not present[name]:
        raise ConfigError("device", f"torch finds no {name!r} here; use 'auto' or 'cpu'")
    return torch.device(name)


def learning_rate_at(progress: float, schedule: str) -> float:
    """The learning rate as a share of its first value. progress: 0 at the start, 1 at the end.

    Source of `cosine`: Loshchilov & Hutter, arXiv:1608.03983, without restarts.
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


@contextlib.contextmanager
def fast_arithmetic() -> Iterator[None]:
    """Inside, float32 products use the processor's fastest units (bfloat16 in them, where it has those), and numbers
    below 1e-38 count as 0: Adam's moments decay into them, and a processor handles such numbers many times slower.

    Held-out ELBO moves by less than the seed moves it (benchmarks/training_speed.py measures speed,
    benchmarks/quality.py the ELBO); what is reported is computed outside, in full float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(before)


@torch.inference_mode()
def held_out_terms(model: VAE, images: Tensor, beta: float, seed: int = 0, batch_size: int = 500) -> Terms:
    """Loss, reconstruction and KL of images that were not trained on: one z for each image, eps from `seed`.

    images: uint8 (N, C, H, W) on the model's device.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    recon_sum = kl_sum = 0.0
    for batch in images.split(batch_size):
        x = to_float(batch)
        mu, logvar = model.encode(x)
        logits = model.decode(model.sample_z(mu, logvar, generator))
        recon_sum += recon_loss(logits, x, model.config).sum().item()
        kl_sum += kl_per_dim(mu, logvar).sum().item()
    recon, kl = recon_sum / len(images), kl_sum / len(images)
    return Terms(recon + beta * kl, recon, kl)


def train(
    model: VAE,
    config: TrainConfig,
    train_images: Tensor,
    held_out_images: Tensor,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Trains a fresh model in place and yields Records: at the start, often at first, then evenly, at each epoch's end.

    train_images, held_out_images: uint8 (N, C, H, W); they are moved to the device once and stay there.
    should_stop is asked before each step; when it says True, a last Record follows.
    The same model, config and data give the same weights on a CPU with one thread.
    Source: Kingma & Welling, arXiv:1312.6114, algorithm 1; Adam: arXiv:1412.6980.

    Raises ConfigError if a batch is larger than the data, TrainingError if the loss stops being a number: the model
    then holds what made it so.
    """
    if config.batch_size > len(train_images):
        raise ConfigError(
            "batch_size", f"{config.batch_size} was given; there are only {len(train_images)} training images"
        )
    device = pick_device(config.device)
    train_images, held_out_images = train_images.to(device), held_out_images[:N_LIVE_HELD_OUT].to(device)
    model.init_weights(train_images.float().mean(0).div_(255).cpu(), torch.Generator().manual_seed(config.seed))
    model.to(device).train()
    if model.config.network == "conv":
        model.to(memory_format=torch.channels_last)

    generator = torch.Generator(device).manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    steps_per_epoch = math.ceil(len(train_images) / config.batch_size)
    n_steps = config.epochs * steps_per_epoch
    meter = _Meter(config, n_steps, steps_per_epoch)

    yield meter.record(0, held_out_terms(model, held_out_images, config.beta))
    for step in range(n_steps):
        if should_stop():
            break
        position = step % steps_per_epoch
        if position == 0:
            order = torch.randperm(len(train_images), generator=generator, device=device)
        batch = order[position * config.batch_size : (position + 1) * config.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_at(step / n_steps, config.schedule)
        with fast_arithmetic():
            meter.add(
                _step(model, optimizer, to_float(train_images.index_select(0, batch)), config.beta, generator),
                len(batch),
            )
        if meter.is_due(step + 1):
            epoch_end = meter.is_epoch_end(step + 1)
            yield meter.record(step + 1, held_out_terms(model, held_out_images, config.beta) if epoch_end else None)
    else:
        return  # the last step is an epoch's end, which has its record
    yield meter.record(step, held_out_terms(model, held_out_images, config.beta))


def _step(model: VAE, optimizer: torch.optim.Adam, x: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """One step of Adam on x (B, C, H, W). Returns [loss, recon_loss, kl] summed over the batch, on its device."""
    mu, logvar = model.encode(x)
    logits = model.decode(model.sample_z(mu, logvar, generator))
    recon = recon_loss(logits, x, model.config).sum()
    kl = kl_per_dim(mu, logvar).sum()
    loss = recon + beta * kl
    optimizer.zero_grad(set_to_none=True)
    (loss / len(x)).backward()
    optimizer.step()
    return torch.stack([loss, recon, kl]).detach()


class _Meter:
    """Adds up the terms between two records, keeps the time, and knows when a record is due."""

    def __init__(self, config: TrainConfig, n_steps: int, steps_per_epoch: int):
        self.n_steps, self.steps_per_epoch = n_steps, steps_per_epoch
        records_per_epoch = max(1, min(RECORDS_PER_EPOCH, MAX_RECORDS // config.epochs))
        self.interval = math.ceil(steps_per_epoch / records_per_epoch)
        self.epoch_interval = steps_per_epoch * math.ceil(config.epochs / MAX_RECORDS)
        self.started = self.last_time = time.perf_counter()
        self.clear()

    def clear(self) -> None:
        self.sums: Tensor | None = None  # [loss, recon_loss, kl] over n_images
        self.n_images = 0

    def add(self, sums: Tensor, n_images: int) -> None:
        self.sums = sums if self.sums is None else self.sums + sums
        self.n_images += n_images

    def is_epoch_end(self, step: int) -> bool:
        return step % self.epoch_interval == 0 or step == self.n_steps

    def is_due(self, step: int) -> bool:
        # At first the loss falls steeply, and someone is waiting for the curve: records at steps 1, 2, 4, 8, ...
        early = step < self.interval and step & (step - 1) == 0
        position = step % self.steps_per_epoch
        return early or (position > 0 and position % self.interval == 0) or self.is_epoch_end(step)

    def record(self, step: int, held_out: Terms | None) -> Record:
        now = time.perf_counter()
        train_terms, speed = None, 0.0
        if self.sums is not None:
            train_terms = Terms(*(self.sums / self.n_images).tolist())
            speed = self.n_images / max(now - self.last_time, 1e-9)
        if not all(math.isfinite(terms.loss) for terms in (train_terms, held_out) if terms):
            raise TrainingError(
                f"The loss stopped being a number by step {step:,}; use a lower learning rate, or a lower beta."
            )
        seconds = now - self.started
        left = seconds / step * (self.n_steps - step) if step else 0.0
        self.last_time = now
        self.clear()
        return Record(step, self.n_steps, step / self.steps_per_epoch, seconds, left, speed, train_terms, held_out)
