"""A model's decoder packed for decoder.js, which runs it in the browser."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vae.networks import Codebook, Dropout

# Above this the decoder stays on the server: 2 MB on the wire, and about 4 ms a picture in the browser.
MAX_BROWSER_WEIGHTS = 1_000_000
MAX_FULL_WEIGHTS = 350_000  # above this, and where it loses nothing, they travel as float16: 1.4 MB on the wire


def n_weights(decoder: nn.Sequential) -> int:
    return sum(weight.numel() for weight in decoder.parameters())


def travels_as_half(decoder: nn.Sequential) -> bool:
    """Whether the weights travel as float16: those of a checkpoint that is stored so, and very many."""
    weights = list(decoder.parameters())
    return n_weights(decoder) > MAX_FULL_WEIGHTS or all(
        torch.equal(weight.half().float(), weight) for weight in weights
    )


def pack_decoder(decoder: nn.Sequential, half: bool, likelihood: str = "bernoulli") -> tuple[list[dict], np.ndarray]:
    """What each layer is, and all weights and biases, layer after layer, in one array of float16 or float32.

    float32 gives torch's pixels to 1e-5 of their range, float16 to 5e-3, or exactly where the checkpoint is stored so.
    Raises TypeError for a layer that decoder.js does not know.
    """
    layers: list[dict] = []
    blocks: list[Tensor] = []
    shape: tuple[int, ...] = ()
    for layer in decoder:
        if isinstance(layer, nn.Unflatten):
            shape = tuple(layer.unflattened_size)
        elif isinstance(layer, nn.Linear):
            layers.append({"kind": "linear", "n_in": layer.in_features, "n_out": layer.out_features})
            blocks += [layer.weight.T, layer.bias]
        elif isinstance(layer, nn.ConvTranspose2d):
            _, height, width = shape
            layers.append({"kind": "conv_transpose", "n_in": layer.in_channels, "n_out": layer.out_channels})
            layers[-1] |= {"height": height, "width": width}
            blocks += [layer.weight, layer.bias]
            shape = (layer.out_channels, 2 * height, 2 * width)
        elif isinstance(layer, Codebook):
            n_symbols, symbol_dim = layer.vectors.shape
            layers.append({"kind": "codebook", "n_symbols": n_symbols, "symbol_dim": symbol_dim})
            blocks.append(layer.vectors)
        elif isinstance(layer, Dropout):
            continue  # of training
        elif isinstance(layer, nn.GELU | nn.ReLU | nn.Tanh):
            layers.append({"kind": type(layer).__name__.lower()})
        else:
            raise TypeError(f"decoder.js has no {type(layer).__name__}")
    layers.append({"kind": likelihood if likelihood == "continuous_bernoulli" else "sigmoid"})
    weights = torch.cat([block.flatten() for block in blocks]).numpy()
    return layers, weights.astype("<f2" if half else "<f4")
