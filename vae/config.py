"""What model, and how trained: frozen dataclasses, checked when made, saved with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NETWORKS = ("mlp", "conv")
LIKELIHOODS = ("bernoulli", "gaussian")
ACTIVATIONS = ("gelu", "relu", "tanh")
SCHEDULES = ("cosine", "linear", "constant")
BETA_SCHEDULES = ("constant", "warmup", "cyclical")
TARGETS = ("grey", "static", "dynamic")
OBJECTIVES = ("elbo", "iwae")
DEVICES = ("auto", "cpu", "cuda", "mps")

CHOICES = {
    "network": NETWORKS,
    "activation": ACTIVATIONS,
    "likelihood": LIKELIHOODS,
    "schedule": SCHEDULES,
    "targets": TARGETS,
    "objective": OBJECTIVES,
    "beta_schedule": BETA_SCHEDULES,
    "device": DEVICES,
}


class ConfigError(ValueError):
    """A setting that can't work. `field` names the setting, the message says what would work."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


def check_integer(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(field, f"{value!r} was given; use a whole number from {low:,} to {high:,}")


def check_number(field: str, value: object, low: float, high: float, low_allowed: bool = False) -> None:
    # NaN is neither above low nor below anything, so the comparisons turn it away too.
    in_range = isinstance(value, int | float) and (low < value <= high or (low_allowed and value == low))
    if isinstance(value, bool) or not in_range:
        bounds = f"from {low:g} to {high:g}" if low_allowed else f"above {low:g}, at most {high:g}"
        raise ConfigError(field, f"{value!r} was given; use a number {bounds}")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(field, f"{value!r} was given; choose one of {', '.join(choices)}")


def _integers(field: str, value: object, low: int, high: int, max_length: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > max_length:
        raise ConfigError(field, f"{value!r} was given; use at most {max_length} whole numbers")
    for item in value:
        check_integer(field, item, low, high)
    return tuple(value)


@dataclass(frozen=True)
class ModelConfig:
    """The network and its likelihood: all that is needed to build a model for its weights.

    Raises ConfigError if a field is out of its range.
    """

    image_shape: tuple[int, int, int]  # (C, H, W); C is 1 or 3, sides 4 to 256
    network: str = "mlp"  # one of NETWORKS
    channels: tuple[int, ...] = ()  # conv only: of each stride-2 layer, image to code
    widths: tuple[int, ...] = (512, 256)  # of the dense layers, image to code; mirrored in the decoder
    latent_dim: int = 2  # D, 1 to 512
    activation: str = "gelu"  # one of ACTIVATIONS
    likelihood: str = "bernoulli"  # one of LIKELIHOODS
    sigma: float = 0.1  # Gaussian only: fixed standard deviation, in pixel units (0 to 1)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen, and JSON knows no tuples
        shape = _integers("image_shape", self.image_shape, 1, 256, 3)
        set_field(self, "image_shape", shape)
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 4:
            raise ConfigError("image_shape", f"{shape} was given; use (1 or 3, height, width), sides from 4")
        set_field(self, "channels", _integers("channels", self.channels, 1, 512, 6))
        set_field(self, "widths", _integers("widths", self.widths, 1, 8192, 8))
        check_choice("network", self.network, NETWORKS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        check_integer("latent_dim", self.latent_dim, 1, 512)
        check_number("sigma", self.sigma, 0, 10)
        if self.network == "mlp" and self.channels:
            raise ConfigError("channels", "an MLP has none; leave it empty, or choose the network 'conv'")
        if self.network == "conv":
            self._check_strides()

    def _check_strides(self) -> None:
        if not self.channels:
            raise ConfigError("channels", "a convolutional network needs at least one, such as 16, 32")
        step = 2 ** len(self.channels)
        if any(side % step for side in self.image_shape[1:]):
            raise ConfigError(
                "channels",
                f"{len(self.channels)} layers halve the image {len(self.channels)} times, but {self.image_shape[1]} × "
                f"{self.image_shape[2]} pixels can't be divided by {step}; use fewer layers",
            )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Raises ConfigError if a field is out of its range."""

    dataset: str  # a key of data.DATASETS
    epochs: int = 10  # passes over the training images, 1 to 100,000
    batch_size: int = 128  # images a step, 1 to the number of training images
    learning_rate: float = 2e-3  # Adam's, at the start; above 0, at most 1
    schedule: str = "cosine"  # how the learning rate falls to 0; one of SCHEDULES
    targets: str = "grey"  # what the model sees of the images; one of TARGETS, see data.binarize
    objective: str = "elbo"  # one of OBJECTIVES
    n_samples: int = 50  # iwae only: z for each image in a step, 1 to 1,000
    beta: float = 1.0  # weight of the KL in the loss, 0 to 1,000; 1 is the ELBO
    seed: int = 0  # of the first weights, the order of the images and eps; 0 to 2^31 - 1
    device: str = "auto"  # one of DEVICES; auto takes a GPU where torch finds one
    threads: int = 0  # torch threads, 0 to 1,024; 0 leaves one core to the app
    half: bool = False  # keep the finished weights and codes as float16 on disk
    beta_schedule: str = "constant"  # how beta gets to its value; one of BETA_SCHEDULES
    warmup_epochs: float = 5.0  # warmup only: beta rises from 0 over so many epochs; above 0, at most 100,000
    n_cycles: int = 4  # cyclical only: how often beta rises from 0 in the whole training, 1 to 1,000
    free_bits: float = 0.0  # nats of each dimension's KL that cost nothing, 0 to 100

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str) or not self.dataset:
            raise ConfigError("dataset", f"{self.dataset!r} was given; name a data set")
        check_integer("epochs", self.epochs, 1, 100_000)
        check_integer("batch_size", self.batch_size, 1, 1_000_000)
        check_number("learning_rate", self.learning_rate, 0, 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("targets", self.targets, TARGETS)
        check_choice("objective", self.objective, OBJECTIVES)
        check_integer("n_samples", self.n_samples, 1, 1000)
        check_number("beta", self.beta, 0, 1000, low_allowed=True)
        check_integer("seed", self.seed, 0, 2**31 - 1)
        check_choice("device", self.device, DEVICES)
        check_integer("threads", self.threads, 0, 1024)
        if not isinstance(self.half, bool):
            raise ConfigError("half", f"{self.half!r} was given; use true or false")
        check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        check_number("warmup_epochs", self.warmup_epochs, 0, 100_000)
        check_integer("n_cycles", self.n_cycles, 1, 1000)
        check_number("free_bits", self.free_bits, 0, 100, low_allowed=True)
