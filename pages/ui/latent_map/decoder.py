"""A model's decoder packed for decoder.js, which runs it in the browser."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from vae import VAE

# Above this the decoder stays on the server: 2 MB on the wire, and about 4 ms a picture in the browser.
MAX_BROWSER_WEIGHTS = 1_000_000


def n_decoder_weights(model: VAE) -> int:
    return sum(weight.numel() for weight in model.decoder.parameters())


def pack_decoder(model: VAE) -> tuple[list[dict], bytes]:
    """What each layer is, and all weights and biases as float16, layer after layer.

    float16 moves a pixel by less than 0.005 of its range, and not at all where the checkpoint is stored so.
    Raises TypeError for a layer that decoder.js does not know.
    """
    layers: list[dict] = []
    blocks: list[bytes] = []
    shape: tuple[int, ...] = ()
    for layer in model.decoder:
        if isinstance(layer, nn.Unflatten):
            shape = tuple(layer.unflattened_size)
        elif isinstance(layer, nn.Linear):
            layers.append({"kind": "linear", "n_in": layer.in_features, "n_out": layer.out_features})
            blocks += [_to_half(layer.weight.T), _to_half(layer.bias)]
        elif isinstance(layer, nn.ConvTranspose2d):
            _, height, width = shape
            layers.append({"kind": "conv_transpose", "n_in": layer.in_channels, "n_out": layer.out_channels})
            layers[-1] |= {"height": height, "width": width}
            blocks += [_to_half(layer.weight), _to_half(layer.bias)]
            shape = (layer.out_channels, 2 * height, 2 * width)
        elif isinstance(layer, nn.GELU | nn.ReLU | nn.Tanh):
            layers.append({"kind": type(layer).__name__.lower()})
        else:
            raise TypeError(f"decoder.js has no {type(layer).__name__}")
    layers.append({"kind": "sigmoid"})
    return layers, b"".join(blocks)


def _to_half(weights: Tensor) -> bytes:
    return np.ascontiguousarray(weights.numpy(), "<f2").tobytes()
