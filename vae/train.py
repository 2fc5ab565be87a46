"""`train(...)`: a generator of progress records. Nothing else trains.

`Training` is the same with its hands free: it can be told another beta or learning rate under way, and its state can be
kept and taken up again, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.config import DISTANCES, NEED_TWO, WITHOUT_BETA, ConfigError, ModelConfig, TrainConfig, check_fit
from vae.data import binarize, corrupt, to_float
from vae.model import VAE
from vae.objectives import (
    capacity_gap,
    codebook_loss,
    contractive_penalty,
    energy_distance,
    free_bits_kl,
    iwae_loss,
    kl_per_dim,
    l1_penalty,
    l2_penalty,
    mmd,
    sliced_wasserstein,
    sparsity_kl,
    total_correlation,
)

RECORDS_PER_EPOCH = 10
MAX_RECORDS = 1000  # of a long run: its history stays small and its chart quick
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, as torch names them
N_LIVE_HELD_OUT = 2000  # held-out images behind the live curves: 1 % of an epoch's work on MNIST


class TrainingError(RuntimeError):
    """Training that can't go on, as with a loss that is no longer a number; the message says what to change."""


@dataclass(frozen=True)
class Terms:
    """The loss and its parts: nats per image, summed over pixels and latent dimensions, mean over images."""

    loss: float  # what is minimized; see `batch_terms`
    recon_loss: float
    kl: float | None  # KL(q(z|x) || p(z)); None where a code has no spread
    penalty: float | None = None  # what stands in the loss in the KL's place; None where that is the KL


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
    beta: float | None = None  # weight of the KL, or of what is in its place, in the last step; None if it has none
    learning_rate: float | None = None  # Adam's in the last step


@dataclass(frozen=True)
class Change:
    """A setting that someone changed while the run went on."""

    step: int  # the steps after this one are under the new value
    epoch: float
    setting: str  # beta, learning_rate or epochs; of those two, what the schedules take their share of
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


def beta_share_at(epoch: float, config: TrainConfig) -> float:
    """Beta as a share of its full value, 0 to 1. epoch: passes over the data so far.

    warmup: it rises from 0 along a line. Source: Bowman et al., arXiv:1511.06349; Sønderby et al., arXiv:1602.02282.
    cyclical: it rises so in the first half of each cycle, and stays for the second. Source: Fu et al.,
    arXiv:1903.10145, with R = 0.5.
    """
    if config.beta_schedule == "warmup":
        return min(1.0, epoch / config.warmup_epochs)
    if config.beta_schedule == "cyclical":
        return min(1.0, 2 * (epoch * config.n_cycles / config.epochs % 1.0))
    return 1.0


@contextlib.contextmanager
def fast_arithmetic(model: VAE | None = None) -> Iterator[None]:
    """Inside, float32 products use the processor's fastest units (bfloat16 in them, where it has those), and numbers
    below 1e-38 count as 0: Adam's moments decay into them, and a processor handles such numbers many times slower.
    The features of a convolutional `model` are bfloat16 too on such a processor, which takes two thirds of the time; of
    dense layers they are not, where it would gain nothing. Weights, elementwise terms and sums stay float32.

    Held-out ELBO moves by less than the seed moves it (benchmarks/training_speed.py measures both); the figures of a
    checkpoint are computed outside, in full float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    if model is not None:
        model.in_bfloat16 = model.config.network == "conv" and _has_bfloat16(next(model.parameters()).device)
    try:
        yield
    finally:
        if model is not None:
            model.in_bfloat16 = False
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(before)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 numbers itself: slower than float32 where it does not."""
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


UNKNOWN = -1  # the label of an image whose class is kept from the model


@dataclass(frozen=True)
class Batch:
    """Images of a step."""

    x: Tensor  # (B, C, H, W) in [0, 1]: what is to be reconstructed
    seen: Tensor  # the same, as the encoder sees it: corrupted where the model is to denoise
    labels: Tensor | None  # (B,) int64; UNKNOWN where the model may not know


def batch_terms(
    model: VAE,
    batch: Batch,
    config: TrainConfig,
    beta: float,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """(4,): loss, recon_loss, KL and penalty of a batch, summed over its images; NaN for what the model has not.

    beta: weight of the KL or penalty. progress: share of the training that is done.
    The loss of an objective is recon_loss +
      elbo             beta * KL, or beta * `free_bits_kl`; beta above 1: Higgins et al. 2017
      capacity         beta * |KL - C|, C from 0 to `capacity` in the first half (Burgess et al., arXiv:1804.03599)
      tcvae            KL + (beta - 1) * `total_correlation` (Chen et al., arXiv:1802.04942)
      one of DISTANCES          beta * that distance of the batch's z from as many of N(0, I)
      l1, l2, sparse, contractive    beta * the penalty of the code
      vq               beta * `codebook_loss`
      reconstruction   nothing
    and that of `iwae` is `iwae_loss`, whose recon_loss is what it has beyond the KL. Labels that are to be
    predicted add label_weight * cross-entropy.
    """
    y = batch.labels if model.config.labels == "given" else None
    seen = batch.seen
    if config.objective == "contractive":
        seen = seen.detach().requires_grad_()
    with torch.set_grad_enabled(torch.is_grad_enabled() or seen.requires_grad):
        mu, logvar = model.encode(seen, y)
        contraction = contractive_penalty(mu, seen, generator).sum() if seen.requires_grad else None
    is_bound = config.objective == "iwae"
    if not is_bound:
        z = model.sample_z(mu, logvar, generator)
        recon = model.recon_loss(model.decode(z, y), batch.x).sum()
    has_kl = model.config.latent == "gaussian"
    kl_of_dims = kl_per_dim(mu, logvar) if has_kl else mu.new_full((), torch.nan)
    kl, penalty = kl_of_dims.sum(), mu.new_full((), torch.nan)
    if is_bound:
        loss = iwae_loss(model, batch.x, mu, logvar, config.n_samples, generator, y).sum()
        recon = loss.detach() - kl
    else:
        n = len(mu)
        if config.objective == "elbo":
            loss = recon + beta * (n * free_bits_kl(kl_of_dims, config.free_bits) if config.free_bits else kl)
        elif config.objective == "reconstruction":
            loss = recon
        elif config.objective == "tcvae":
            penalty = n * total_correlation(z, mu, logvar)
            loss = recon + kl + (beta - 1) * penalty
        else:
            if config.objective == "capacity":
                penalty = n * capacity_gap(kl_of_dims, min(1.0, 2 * progress) * config.capacity)
            elif contraction is not None:
                penalty = contraction
            elif config.objective in DISTANCES:
                penalty = n * prior_distance(z, config.objective, generator)
            else:
                penalty = code_penalty(model, mu, config)
            loss = recon + beta * penalty
    if model.config.labels == "predicted" and batch.labels is not None:
        classes = model.class_logits(mu)
        # Held-out images have all their labels; they count as much as those of the training images that have one.
        weight = config.label_weight * (1.0 if model.training else config.labelled_share)
        loss = loss + weight * F.cross_entropy(classes, batch.labels, ignore_index=UNKNOWN, reduction="sum")
    return torch.stack([loss, recon, kl, penalty])


def code_penalty(model: VAE, code: Tensor, config: TrainConfig) -> Tensor:
    """What the codes (B, D) of a batch cost by themselves, summed over the batch, ()."""
    if config.objective == "sparse":
        return len(code) * sparsity_kl(code, config.rho)
    if config.objective == "vq":
        return codebook_loss(code, model.codebook.lookup(model.codebook.symbols(code))).sum()
    return (l1_penalty if config.objective == "l1" else l2_penalty)(code).sum()


def prior_distance(z: Tensor, distance: str, generator: torch.Generator) -> Tensor:
    """How far codes z (B, D) are from as many draws of N(0, I); (). distance: one of DISTANCES."""
    drawn = torch.randn(z.shape, generator=generator, device=z.device)
    if distance == "sliced_wasserstein":
        return sliced_wasserstein(z, drawn, generator)
    return energy_distance(z, drawn) if distance == "energy" else mmd(z, drawn, distance)


@contextlib.contextmanager
def evaluating(model: VAE) -> Iterator[None]:
    """Inside, the model drops no units out."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def held_out_terms(
    model: VAE, images: Tensor, config: TrainConfig, labels: Tensor | None = None, beta: float | None = None,
    progress: float = 1.0, seed: int = 0,
) -> Terms:  # fmt: skip
    """The terms of images that were not trained on, in batches as in training; all that is random is from `seed`.

    images: uint8 (N, C, H, W), labels: (N,), on the model's device. beta and progress are those of `batch_terms`; by
    default the config's, and 1.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    sums, n = torch.zeros(4, dtype=torch.float64), 0
    size = max(config.batch_size, 100)
    beta = config.beta if beta is None else beta
    with evaluating(model):
        for i in range(0, len(images), size):
            x = to_float(images[i : i + size])
            y = None if labels is None else labels[i : i + size]
            batch = Batch(x, corrupt(x, config.corruption, config.corruption_level, generator), y)
            if len(x) > 1 or config.objective not in NEED_TWO:
                sums += batch_terms(model, batch, config, beta, progress, generator).cpu()
                n += len(x)
    return to_terms(sums / n)


def to_terms(values: Tensor) -> Terms:
    """(4,) as of `batch_terms`, means over images."""
    loss, recon, kl, penalty = values.tolist()
    return Terms(loss, recon, *(None if math.isnan(value) else value for value in (kl, penalty)))


@torch.inference_mode()
def held_out_elbo(
    model: VAE, images: Tensor, labels: Tensor | None = None, seed: int = 0, batch_size: int = 500
) -> Terms:
    """Reconstruction and KL with one z for each image, whatever the model was trained for: loss is -ELBO, or the
    reconstruction alone where a code has no spread.

    images: uint8 (N, C, H, W), labels: (N,), where the model is told them; on the model's device.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    recon_sum, kl_sum = 0.0, 0.0
    given = labels if model.config.labels == "given" else None
    has_kl = model.config.latent == "gaussian"
    with evaluating(model):
        for i in range(0, len(images), batch_size):
            x, y = to_float(images[i : i + batch_size]), None if given is None else given[i : i + batch_size]
            mu, logvar = model.encode(x, y)
            recon_sum += model.recon_loss(model.decode(model.sample_z(mu, logvar, generator), y), x).sum().item()
            kl_sum += kl_per_dim(mu, logvar).sum().item() if has_kl else 0.0
    recon, kl = recon_sum / len(images), kl_sum / len(images)
    return Terms(recon + kl, recon, kl if has_kl else None)


def train(
    model: VAE,
    config: TrainConfig,
    train_images: Tensor,
    held_out_images: Tensor,
    should_stop: Callable[[], bool] = lambda: False,
    train_labels: Tensor | None = None,
    held_out_labels: Tensor | None = None,
) -> Iterator[Record]:
    """Trains a fresh model in place and yields Records: at the start, often at first, then evenly, at each epoch's end.

    Arguments, source and errors are those of `Training` and its `records`.
    """
    training = Training(model, config, train_images, held_out_images, train_labels, held_out_labels)
    yield from training.records(should_stop)


class Training:
    """A training under way: the model, its optimizer, and where it stands in the data.

    `beta` and `learning_rate` begin as the config's and may be set anew between two steps; the schedules take their
    share of them. `every_step` asks for a Record after each step.
    The same model, config, data and changes give the same weights on a CPU with one thread, also across `state` and
    `load_state`.
    Source: Kingma & Welling, arXiv:1312.6114, algorithm 1; Adam: arXiv:1412.6980.
    """

    def __init__(
        self, model: VAE, config: TrainConfig, train_images: Tensor, held_out_images: Tensor,
        train_labels: Tensor | None = None, held_out_labels: Tensor | None = None,
    ):  # fmt: skip
        """train_images, held_out_images: uint8 (N, C, H, W); they are moved to the device once and stay there, as do
        their labels, (N,) int64, which only a model with labels wants.

        The model gets fresh weights. Raises ConfigError if the model can't be trained so, or not on these images.
        """
        check_fit(model.config, config)
        _check_data(model.config, config, train_images, held_out_images, train_labels, held_out_labels)
        self.model, self.config = model, config
        self.beta, self.learning_rate = config.beta, config.learning_rate
        self.every_step = False
        device = pick_device(config.device)
        self.images, self.held_out_images = train_images.to(device), held_out_images[:N_LIVE_HELD_OUT].to(device)
        self.labels = self.held_out_labels = None
        if model.config.labels != "unused" and train_labels is not None and held_out_labels is not None:
            self.labels = self._known_labels(train_labels).to(device)
            self.held_out_labels = held_out_labels[:N_LIVE_HELD_OUT].to(device)
        model.init_weights(self.images.float().mean(0).div_(255).cpu(), torch.Generator().manual_seed(config.seed))
        model.to(device).train()
        if model.config.network == "conv":
            model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        model.use_generator(self.generator)
        self.epoch_start = self.generator.get_state()  # of the generator, before it drew the order of this epoch
        self.order = torch.empty(0, dtype=torch.long)  # of the images in this epoch
        self.step, self.has_begun = 0, False
        self.last_beta, self.last_learning_rate = self.current_beta, self.current_learning_rate  # of the last step
        self.meter = _Meter()

    def _known_labels(self, labels: Tensor) -> Tensor:
        """Those that the model may know; the others UNKNOWN."""
        if self.model.config.labels == "given":
            return labels
        n_known = max(1, round(self.config.labelled_share * len(labels)))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.config.seed))
        return torch.full_like(labels, UNKNOWN).index_copy_(0, order[:n_known], labels[order[:n_known]])

    @property
    def steps_per_epoch(self) -> int:
        """An image that would be alone in the last step is left out where a step compares images with each other."""
        n_full, n_left = divmod(len(self.images), self.config.batch_size)
        return n_full + (n_left > (self.config.objective in NEED_TWO))

    @property
    def n_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Passes over the training images so far."""
        return self.step / self.steps_per_epoch

    @property
    def current_beta(self) -> float:
        """Of the next step."""
        return self.beta * beta_share_at(self.epoch, self.config)

    @property
    def current_learning_rate(self) -> float:
        return self.learning_rate * learning_rate_at(self.step / self.n_steps, self.config.schedule)

    @property
    def seconds(self) -> float:
        """Spent training so far."""
        return self.meter.seconds

    def leave_out(self, seconds: float) -> None:
        """Time that just passed and was not spent training, as in a pause."""
        self.meter.leave_out(seconds)

    def records(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Trains to the last epoch. should_stop is asked before each step; when it says True, a last Record follows.

        Raises TrainingError if the loss stops being a number: the model then holds what made it so.
        """
        self.meter.start()
        if not self.has_begun:
            self.has_begun = True
            yield self._record(with_held_out=True)
        while self.step < self.n_steps:
            if should_stop():
                yield self._record(with_held_out=True)
                return
            self._do_step()
            if self._is_due():
                yield self._record(with_held_out=self._is_epoch_end())

    def _do_step(self) -> None:
        """One step of Adam on the next batch."""
        config, position = self.config, self.step % self.steps_per_epoch
        if position == 0:
            self._begin_epoch()
        indices = self.order[position * config.batch_size : (position + 1) * config.batch_size]
        self.last_beta, self.last_learning_rate = self.current_beta, self.current_learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = self.last_learning_rate
        with fast_arithmetic(self.model):
            terms = batch_terms(
                self.model, self._batch(indices), config, self.last_beta, self.step / self.n_steps, self.generator
            )
            self.optimizer.zero_grad(set_to_none=True)
            (terms[0] / len(indices)).backward()
            self.optimizer.step()
        self.meter.add(terms.detach(), len(indices))
        self.step += 1

    def _batch(self, indices: Tensor) -> Batch:
        images = self.images.index_select(0, indices)
        x = to_float(binarize(images, self.generator) if self.config.targets == "dynamic" else images)
        seen = corrupt(x, self.config.corruption, self.config.corruption_level, self.generator)
        return Batch(x, seen, None if self.labels is None else self.labels.index_select(0, indices))

    def _begin_epoch(self) -> None:
        self.epoch_start = self.generator.get_state()
        self.order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)

    # Records

    def _is_epoch_end(self) -> bool:
        return self.step % (self.steps_per_epoch * math.ceil(self.config.epochs / MAX_RECORDS)) == 0 or self._is_last()

    def _is_last(self) -> bool:
        return self.step == self.n_steps

    def _is_due(self) -> bool:
        # At first the loss falls steeply, and someone is waiting for the curve: records at steps 1, 2, 4, 8, ...
        interval = math.ceil(self.steps_per_epoch / max(1, min(RECORDS_PER_EPOCH, MAX_RECORDS // self.config.epochs)))
        early = self.step < interval and self.step & (self.step - 1) == 0
        position = self.step % self.steps_per_epoch
        return self.every_step or early or (position > 0 and position % interval == 0) or self._is_epoch_end()

    def _record(self, with_held_out: bool) -> Record:
        held_out = None
        if with_held_out:
            held_out = held_out_terms(
                self.model, self.held_out_images, self.config, self.held_out_labels, self.last_beta,
                self.step / self.n_steps,
            )  # fmt: skip
        train_terms, speed = self.meter.read()
        if not all(math.isfinite(terms.loss) for terms in (train_terms, held_out) if terms):
            raise TrainingError(
                f"The loss stopped being a number by step {self.step:,}; use a lower learning rate, or a lower beta."
            )
        seconds = self.meter.seconds
        left = seconds / self.step * (self.n_steps - self.step) if self.step else 0.0
        return Record(
            self.step, self.n_steps, self.epoch, seconds, left, speed, train_terms, held_out,
            None if self.config.objective in WITHOUT_BETA else self.last_beta, self.last_learning_rate,
        )  # fmt: skip

    # State

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the training depends on, but for config and images; taken right after a Record."""
        moments = self.optimizer.state_dict()["state"]
        numbers = [self.step, self.seconds, self.beta, self.learning_rate, self.last_beta, self.last_learning_rate]
        state = {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{f"{kind}.{i}": moments[i][kind] for i in moments for kind in MOMENTS},
            "generator": self.generator.get_state(),
            "epoch_start": self.epoch_start,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave. Raises KeyError, RuntimeError or ValueError if it is of another training."""
        step, seconds, *rates = state["numbers"].tolist()
        self.step, self.has_begun = int(step), True
        self.beta, self.learning_rate, self.last_beta, self.last_learning_rate = rates
        self.meter.seconds_before = seconds
        self.model.load_state_dict(
            {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        )
        options = self.optimizer.state_dict()["param_groups"]
        moments = {}
        for i, weight in enumerate(self.model.parameters() if self.step else ()):
            # In the weight's own memory format, which the fused optimizer takes for granted.
            kept = {kind: torch.empty_like(weight).copy_(state[f"{kind}.{i}"].view_as(weight)) for kind in MOMENTS}
            moments[i] = {"step": torch.tensor(float(step)), **kept}
        self.optimizer.load_state_dict({"state": moments, "param_groups": options})
        self.generator.set_state(state["epoch_start"])
        if self.step % self.steps_per_epoch:
            self._begin_epoch()
        self.generator.set_state(state["generator"])


def _check_data(
    model: ModelConfig, config: TrainConfig, images: Tensor, held_out_images: Tensor, labels: Tensor | None,
    held_out_labels: Tensor | None,
) -> None:  # fmt: skip
    for some in (images, held_out_images):
        if some.dtype != torch.uint8:
            raise ConfigError("dataset", f"its images are {some.dtype}; use uint8, 0 to 255, which count as 0 to 1")
        if tuple(some.shape[1:]) != model.image_shape:
            raise ConfigError("image_shape", f"{model.image_shape} is not that of the images, {tuple(some.shape[1:])}")
    if len(images) < 2 and config.objective in NEED_TWO:
        raise ConfigError("objective", f"{config.objective!r} compares images, and there is {len(images)}; use another")
    if config.batch_size > len(images) and config.left_out_class < 0:  # else those that are left make one step
        raise ConfigError("batch_size", f"{config.batch_size} was given; there are only {len(images)} training images")
    if model.labels == "unused":
        return
    if labels is None or held_out_labels is None:
        raise ConfigError("labels", "the images have none; choose 'unused', or a data set with classes")
    most = max(int(labels.max()), int(held_out_labels.max()))
    if most >= model.n_classes:
        raise ConfigError("n_classes", f"{model.n_classes} was given; the labels go up to {most}")


class _Meter:
    """Adds up the terms between two records, and keeps the time."""

    def __init__(self) -> None:
        self.seconds_before = 0.0  # spent before this process took the training up
        self.start()

    def start(self) -> None:
        self.started = self.last_time = time.perf_counter()
        self._clear()

    def _clear(self) -> None:
        self.sums: Tensor | None = None  # of `batch_terms`, over n_images
        self.n_images = 0

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent training, as in a pause."""
        self.started += seconds
        self.last_time += seconds

    def add(self, sums: Tensor, n_images: int) -> None:
        self.sums = sums if self.sums is None else self.sums + sums
        self.n_images += n_images

    def read(self) -> tuple[Terms | None, float]:
        """The mean terms since the last reading, None if there was no step; and the images per second."""
        now = time.perf_counter()
        terms, speed = None, 0.0
        if self.sums is not None:
            terms = to_terms(self.sums / self.n_images)
            speed = self.n_images / max(now - self.last_time, 1e-9)
        self.last_time = now
        self._clear()
        return terms, speed
