"""What model, and how trained: frozen dataclasses, checked when made, saved with the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NETWORKS = ("mlp", "conv")
LATENTS = ("gaussian", "point", "codebook")
CODE_ACTIVATIONS = ("none", "sigmoid")
LIKELIHOODS = ("bernoulli", "continuous_bernoulli", "gaussian", "laplace")
SCALES = ("fixed", "learned", "per_pixel")
# Of a scale that is learned: without a limit, pixels that never change would drive the loss to -infinity.
LEAST_LOG_SCALE = -5.0
LEAST_SIGMA = math.exp(LEAST_LOG_SCALE)
LABELS = ("unused", "given", "predicted")
ACTIVATIONS = ("gelu", "relu", "tanh")
DISTANCES = ("mmd_rbf", "mmd_imq", "sliced_wasserstein", "energy")  # of the codes from the prior
OBJECTIVES = {  # by kind of code
    "gaussian": ("elbo", "iwae", "capacity", "tcvae", *DISTANCES),
    "point": ("reconstruction", "l1", "l2", "sparse", "contractive", *DISTANCES),
    "codebook": ("vq",),
}
WITHOUT_BETA = ("iwae", "reconstruction")  # objectives whose loss has no weight
# Those without a beta that could rise from 0: tcvae's is of a part alone, and the rest of the KL would weigh in full.
WITHOUT_SCHEDULE = (*WITHOUT_BETA, "tcvae")
NEED_TWO = (*DISTANCES, "tcvae")  # those that compare the codes of a batch with each other
TARGETS = ("grey", "static", "dynamic")
CORRUPTIONS = ("none", "gaussian", "masking", "salt_and_pepper")
SCHEDULES = ("cosine", "linear", "constant")
BETA_SCHEDULES = ("constant", "warmup", "cyclical")
DEVICES = ("auto", "cpu", "cuda", "mps")
CHOICES = {
    "network": NETWORKS,
    "latent": LATENTS,
    "code_activation": CODE_ACTIVATIONS,
    "activation": ACTIVATIONS,
    "likelihood": LIKELIHOODS,
    "scale": SCALES,
    "labels": LABELS,
    "schedule": SCHEDULES,
    "targets": TARGETS,
    "objective": tuple(dict.fromkeys(name for names in OBJECTIVES.values() for name in names)),
    "corruption": CORRUPTIONS,
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
    latent_dim: int = 2  # D, 1 to 512, at most as many as the image has numbers
    activation: str = "gelu"  # one of ACTIVATIONS
    likelihood: str = "bernoulli"  # one of LIKELIHOODS
    sigma: float = 0.1  # Gaussian and Laplace only: the scale, in pixel units (0 to 1); a learned one starts there
    scale: str = "fixed"  # Gaussian and Laplace only: whether sigma is learned, and of each pixel; one of SCALES
    latent: str = "gaussian"  # what a code is: q(z|x), a point, or symbols of a codebook; one of LATENTS
    code_activation: str = "none"  # point only: what bounds the code; one of CODE_ACTIVATIONS
    n_symbols: int = 64  # codebook only: of how many a code chooses, 2 to 4,096
    symbol_dim: int = 2  # codebook only: dimensions of a symbol; D / symbol_dim symbols make a code
    labels: str = "unused"  # given to encoder and decoder, or predicted from the code; one of LABELS
    n_classes: int = 0  # 0 where labels are unused, else 2 to 256
    dropout: float = 0.0  # share of the units of each hidden dense layer that a step leaves out; 0 to below 1

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
        check_integer("latent_dim", self.latent_dim, 1, min(512, math.prod(shape)))
        check_choice("scale", self.scale, SCALES)
        check_number("sigma", self.sigma, 0 if self.scale == "fixed" else LEAST_SIGMA, 10)
        check_choice("latent", self.latent, LATENTS)
        check_choice("code_activation", self.code_activation, CODE_ACTIVATIONS)
        check_choice("labels", self.labels, LABELS)
        check_number("dropout", self.dropout, 0, 0.95, low_allowed=True)
        self._check_kinds()
        if self.dropout and not self.widths:
            raise ConfigError("dropout", f"{self.dropout:g} was given; there are no hidden dense layers for it: use 0")
        if self.network == "mlp" and self.channels:
            raise ConfigError("channels", "an MLP has none; leave it empty, or choose the network 'conv'")
        if self.network == "conv":
            self._check_strides()

    def _check_kinds(self) -> None:
        if self.scale != "fixed" and not self.has_scale:
            raise ConfigError("scale", f"the {self.likelihood} likelihood has none; choose 'gaussian' or 'laplace'")
        if self.code_activation != "none" and self.latent != "point":
            raise ConfigError("code_activation", "only a code that is a point has one; leave it at 'none'")
        check_integer("n_symbols", self.n_symbols, 2, 4096)
        check_integer("symbol_dim", self.symbol_dim, 1, 512)
        if self.latent == "codebook" and self.latent_dim % self.symbol_dim:
            raise ConfigError(
                "symbol_dim", f"{self.symbol_dim} was given; {self.latent_dim} latent dimensions can't be cut so"
            )
        if self.latent == "codebook" and self.labels == "given":
            raise ConfigError("labels", "a codebook's decoder takes symbols alone; choose 'unused' or 'predicted'")
        if self.labels == "unused":
            check_integer("n_classes", self.n_classes, 0, 0)
        else:
            check_integer("n_classes", self.n_classes, 2, 256)

    @property
    def has_scale(self) -> bool:
        """Whether the likelihood has a sigma."""
        return self.likelihood in ("gaussian", "laplace")

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
    beta: float = 1.0  # weight of the KL, or of what the objective has in its place, in the loss; 0 to 1,000
    seed: int = 0  # of the first weights, the order of the images and eps; 0 to 2^31 - 1
    device: str = "auto"  # one of DEVICES; auto takes a GPU where torch finds one
    threads: int = 0  # torch threads, 0 to 1,024; 0 leaves one core to the app
    half: bool = False  # keep the finished weights and codes as float16 on disk
    beta_schedule: str = "constant"  # how beta gets to its value; one of BETA_SCHEDULES
    warmup_epochs: float = 5.0  # warmup only: beta rises from 0 over so many epochs; above 0, at most 100,000
    n_cycles: int = 4  # cyclical only: how often beta rises from 0 in the whole training, 1 to 1,000
    free_bits: float = 0.0  # elbo only: nats of each dimension's KL that cost nothing, 0 to 100
    targets: str = "grey"  # what the model sees of the images; one of TARGETS, see data.binarize
    objective: str = "elbo"  # one of OBJECTIVES, by kind of code
    n_samples: int = 50  # iwae only: z for each image in a step, 1 to 1,000
    capacity: float = 25.0  # capacity only: nats of KL that are aimed at in the end, 0 to 10,000
    rho: float = 0.05  # sparse only: the mean activation that is aimed at, between 0 and 1
    corruption: str = "none"  # what the encoder's input suffers; one of CORRUPTIONS
    corruption_level: float = 0.3  # standard deviation of the noise, or share of the pixels; above 0, at most 1
    left_out_class: int = -1  # not trained on, so that it can be told as an anomaly; -1: none is left out
    labelled_share: float = 1.0  # labels predicted only: of the training images, above 0, at most 1
    label_weight: float = 50.0  # labels predicted only: of the cross-entropy in the loss, above 0, at most 10,000

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str) or not self.dataset:
            raise ConfigError("dataset", f"{self.dataset!r} was given; name a data set")
        check_integer("epochs", self.epochs, 1, 100_000)
        check_integer("batch_size", self.batch_size, 1, 1_000_000)
        check_number("learning_rate", self.learning_rate, 0, 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("targets", self.targets, TARGETS)
        check_choice("objective", self.objective, CHOICES["objective"])
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
        check_number("capacity", self.capacity, 0, 10_000, low_allowed=True)
        if not (isinstance(self.rho, float) and 0 < self.rho < 1):
            raise ConfigError("rho", f"{self.rho!r} was given; use a number between 0 and 1")
        check_choice("corruption", self.corruption, CORRUPTIONS)
        check_number("corruption_level", self.corruption_level, 0, 1)
        check_integer("left_out_class", self.left_out_class, -1, 255)
        check_number("labelled_share", self.labelled_share, 0, 1)
        check_number("label_weight", self.label_weight, 0, 10_000)


def has_prior(model: ModelConfig, training: TrainConfig) -> bool:
    """Whether training drew the codes to N(0, I), so that a z from there means something to the decoder."""
    return model.latent == "gaussian" or training.objective in DISTANCES


def check_fit(model: ModelConfig, training: TrainConfig) -> None:
    """Raises ConfigError where a model can't be trained so."""
    fitting = OBJECTIVES[model.latent]
    if training.objective not in fitting:
        raise ConfigError(
            "objective", f"{training.objective!r} is not one of a {model.latent} code; choose {', '.join(fitting)}"
        )
    if training.objective == "sparse" and model.code_activation != "sigmoid":
        raise ConfigError("code_activation", "'sparse' wants a code between 0 and 1; choose 'sigmoid'")
    if training.objective in DISTANCES and model.code_activation != "none":
        raise ConfigError("code_activation", "a code that is drawn to N(0, I) needs all numbers; choose 'none'")
    if training.left_out_class >= 0 and model.labels == "given":
        raise ConfigError(
            "left_out_class", "a model that is told the class would be told one it never saw; leave none out"
        )
    if training.free_bits and training.objective != "elbo":
        raise ConfigError("free_bits", f"{training.objective!r} has none; use 0, or the objective 'elbo'")
    if training.objective in WITHOUT_BETA and training.beta != 1:
        raise ConfigError("beta", f"{training.beta:g} was given; {training.objective!r} has no weight: use 1")
    if training.objective in WITHOUT_SCHEDULE and training.beta_schedule != "constant":
        raise ConfigError("beta_schedule", f"{training.objective!r} has none; choose 'constant'")
    if model.dropout and training.objective == "iwae":
        raise ConfigError("dropout", "the k draws of 'iwae' would each be decoded by another network; use 0")
    if training.batch_size < 2 and training.objective in NEED_TWO:
        raise ConfigError("batch_size", f"1 was given; {training.objective!r} compares the codes of a batch: use more")
    if training.targets != "grey" and model.likelihood == "continuous_bernoulli":
        raise ConfigError("likelihood", "'continuous_bernoulli' is for grey targets; choose 'bernoulli' for binarized")
