"""Encoders and decoders: image -> 2 D numbers, and z -> one logit for each pixel.

Both are plain `nn.Sequential`s of dense and stride-2 convolutional layers; the decoder mirrors the encoder.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from vae.config import ModelConfig

ACTIVATION_LAYERS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}
# A 4 × 4 kernel with stride 2 and padding 1 halves (transposed: doubles) the sides exactly,
# and its stride divides its size, so the transposed one leaves no checkerboard.
KERNEL_SIZE, STRIDE, PADDING = 4, 2, 1


def _feature_shape(config: ModelConfig) -> tuple[int, int, int]:
    """(C, H, W) between the convolutional and the dense layers; an MLP's is the image itself."""
    channels, height, width = config.image_shape
    step = 2 ** len(config.channels)
    return (config.channels[-1] if config.channels else channels, height // step, width // step)


def make_encoder(config: ModelConfig) -> nn.Sequential:
    """(B, C, H, W) in [0, 1] -> (B, 2 D): mu and logvar side by side."""
    activation = ACTIVATION_LAYERS[config.activation]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((config.image_shape[0], *config.channels)):
        layers += [nn.Conv2d(n_in, n_out, KERNEL_SIZE, STRIDE, PADDING), activation()]
    layers.append(nn.Flatten())
    sizes = (math.prod(_feature_shape(config)), *config.widths)
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    layers.append(nn.Linear(sizes[-1], 2 * config.latent_dim))
    return nn.Sequential(*layers)


def make_decoder(config: ModelConfig) -> nn.Sequential:
    """(B, D) -> (B, C, H, W): a logit for each pixel, any real number."""
    activation = ACTIVATION_LAYERS[config.activation]
    feature_shape = _feature_shape(config)
    sizes = (config.latent_dim, *reversed(config.widths), math.prod(feature_shape))
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    layers.append(nn.Unflatten(1, feature_shape))
    for n_in, n_out in pairwise((*reversed(config.channels), config.image_shape[0])):
        layers += [nn.ConvTranspose2d(n_in, n_out, KERNEL_SIZE, STRIDE, PADDING), activation()]
    # The last activation belongs to the likelihood, not to the network.
    last_activation = max(i for i, layer in enumerate(layers) if isinstance(layer, activation))
    del layers[last_activation]
    return nn.Sequential(*layers)


def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Xavier weights and zero biases, in place.

    Source: Glorot & Bengio 2010; on MNIST it keeps more latent dimensions in use than torch's default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
