"""Encoders and decoders: image -> the numbers of a code, and z -> the likelihood's numbers for each pixel.

Both are plain `nn.Sequential`s of dense and stride-2 convolutional layers; the decoder mirrors the encoder.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.config import ModelConfig

ACTIVATION_LAYERS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}
# A 4 × 4 kernel with stride 2 and padding 1 halves (transposed: doubles) the sides exactly,
# and its stride divides its size, so the transposed one leaves no checkerboard.
KERNEL_SIZE, STRIDE, PADDING = 4, 2, 1

# How torch.cdist should count: by subtraction. A matrix product loses the distances of near neighbours; in training,
# where it is of bfloat16, it is off by percents.
EXACT = "donot_use_mm_for_euclid_dist"


class Dropout(nn.Module):
    """Sets a share of the units to 0 in training, and scales the others up.

    Its draws come from `generator`, which whoever trains sets: torch's own layer draws from the global one, so that a
    training which is taken up again would not be the same. Source: Srivastava et al. 2014.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.share
        return x * kept / (1 - self.share)


class Codebook(nn.Module):
    """Replaces each part of a code by the nearest of `n_symbols` learned vectors.

    z (B, D) -> (B, D); a part has symbol_dim dimensions, and all parts share the vectors. Gradients pass as if nothing
    had been replaced. Source: van den Oord et al., arXiv:1711.00937.
    """

    def __init__(self, n_symbols: int, symbol_dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(n_symbols, symbol_dim))

    def symbols(self, z: Tensor) -> Tensor:
        """z: (B, D) -> (B, D / symbol_dim), which vector is nearest to each part."""
        parts, vectors = z.detach().unflatten(1, (-1, self.vectors.shape[1])), self.vectors.detach()[None]
        # Of 1,000 codes at a time: those of a data set at once would fill the memory with distances.
        return torch.cat([torch.cdist(some, vectors, compute_mode=EXACT).argmin(2) for some in parts.split(1000)])

    def lookup(self, symbols: Tensor) -> Tensor:
        """symbols: (B, P) -> (B, D)."""
        return self.vectors[symbols].flatten(1)

    def forward(self, z: Tensor) -> Tensor:
        return z + (self.lookup(self.symbols(z)) - z).detach()


def _feature_shape(config: ModelConfig) -> tuple[int, int, int]:
    """(C, H, W) between the convolutional and the dense layers; an MLP's is the image itself."""
    channels, height, width = config.image_shape
    step = 2 ** len(config.channels)
    return (config.channels[-1] if config.channels else channels, height // step, width // step)


def _n_given(config: ModelConfig) -> int:
    """Inputs that say the class, beside the image and beside z."""
    return config.n_classes if config.labels == "given" else 0


def _dense(config: ModelConfig, sizes: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), ACTIVATION_LAYERS[config.activation]()]
        if config.dropout:
            layers.append(Dropout(config.dropout))
    return layers


def make_encoder(config: ModelConfig) -> nn.Sequential:
    """(B, C, H, W) in [0, 1] -> (B, 2 D): mu and logvar side by side; (B, D) where a code has no spread.

    With labels that are given, one-hot classes follow the flattened features: see `VAE.encode`.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((config.image_shape[0], *config.channels)):
        layers += [nn.Conv2d(n_in, n_out, KERNEL_SIZE, STRIDE, PADDING), ACTIVATION_LAYERS[config.activation]()]
    layers.append(nn.Flatten())
    sizes = (math.prod(_feature_shape(config)) + _n_given(config), *config.widths)
    layers += _dense(config, sizes)
    layers.append(nn.Linear(sizes[-1], (2 if config.latent == "gaussian" else 1) * config.latent_dim))
    if config.code_activation == "sigmoid":
        layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def make_decoder(config: ModelConfig) -> nn.Sequential:
    """(B, D), followed by one-hot classes where labels are given -> (B, C, H, W): a logit for each pixel, any real
    number; (B, 2 C, H, W) where each pixel has a scale: logits, then log scales."""
    n_images = 2 if config.scale == "per_pixel" else 1
    features = _feature_shape(config)
    sizes = (config.latent_dim + _n_given(config), *reversed(config.widths))
    layers: list[nn.Module] = []
    if config.latent == "codebook":
        layers.append(Codebook(config.n_symbols, config.symbol_dim))
    layers += _dense(config, sizes)
    if not config.channels:
        features = (n_images * features[0], *features[1:])
    layers += [nn.Linear(sizes[-1], math.prod(features)), nn.Unflatten(1, features)]
    channels = (*reversed(config.channels), n_images * config.image_shape[0]) if config.channels else ()
    for n_in, n_out in pairwise(channels):
        layers += [
            ACTIVATION_LAYERS[config.activation](),
            nn.ConvTranspose2d(n_in, n_out, KERNEL_SIZE, STRIDE, PADDING),
        ]
    return nn.Sequential(*layers)


def for_class(network: nn.Sequential, n_classes: int, label: int) -> nn.Sequential:
    """An encoder or decoder that is told classes -> one that is told this one for good: a copy without those inputs,
    for a constant input is a bias; its weights are frozen."""
    layers = copy.deepcopy(network)
    i, told = next((i, layer) for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    n_features = told.in_features - n_classes
    plain = nn.Linear(n_features, told.out_features, device=told.weight.device)
    with torch.no_grad():
        plain.weight.copy_(told.weight[:, :n_features])
        plain.bias.copy_(told.bias + told.weight[:, n_features + label])
    layers[i] = plain
    return layers.requires_grad_(False)


def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Xavier weights and zero biases, in place; a codebook's vectors are drawn from N(0, I).

    Source: Glorot & Bengio 2010; on MNIST it keeps more latent dimensions in use than torch's default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, Codebook):
            nn.init.normal_(layer.vectors, generator=generator)
