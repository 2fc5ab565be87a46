"""Encoders and decoders: every network fits every data set, mirrors itself, and starts from Xavier's weights."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from vae.config import ModelConfig
from vae.data import DATASETS
from vae.networks import init_weights, make_decoder, make_encoder

SHAPES = [*sorted({info.image_shape for info in DATASETS.values()}), (3, 32, 64)]


def configs(shape: tuple[int, int, int]) -> list[ModelConfig]:
    return [
        ModelConfig(shape, widths=(), latent_dim=1),
        ModelConfig(shape, widths=(20, 10), latent_dim=3, activation="relu"),
        ModelConfig(shape, "conv", (4,), (), 2, "tanh"),
        ModelConfig(shape, "conv", (4, 6), (12,), 16),
    ]


@pytest.mark.parametrize("config", [config for shape in SHAPES for config in configs(shape)], ids=str)
def test_every_network_fits_every_image(config):
    x = torch.rand(5, *config.image_shape)
    assert make_encoder(config)(x).shape == (5, 2 * config.latent_dim)
    assert make_decoder(config)(torch.randn(5, config.latent_dim)).shape == x.shape


@pytest.mark.parametrize("config", configs((1, 8, 8)), ids=str)
def test_the_decoder_mirrors_the_encoder(config):
    def weights(network: torch.nn.Module) -> list[torch.Size]:
        return [value.shape for name, value in network.named_parameters() if name.endswith("weight")]

    (*first, last), mirrored = weights(make_encoder(config)), weights(make_decoder(config))[::-1]
    assert last[0] == 2 * mirrored[-1][1]  # mu and logvar, where the decoder takes one z
    # A dense weight is (out, in) and so turns over; a transposed convolution stores its own turned over already.
    assert mirrored[:-1] == [shape[::-1] if len(shape) == 2 else shape for shape in first]


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
@pytest.mark.parametrize("config", configs((1, 8, 8)), ids=str)
def test_logits_take_any_value(config, activation):
    """The likelihood applies the sigmoid; an activation left at the end would cut off what the last bias says."""
    decoder = make_decoder(replace(config, activation=activation))
    *_, last_bias = decoder.parameters()
    for value in (-5.0, 5.0):
        last_bias.data.fill_(value)
        logits = decoder(torch.zeros(2, config.latent_dim))
        assert abs(logits.mean().item() - value) < 1


def test_weights_are_xaviers():
    """Judge: SciPy's Kolmogorov-Smirnov test against the uniform distribution of Glorot & Bengio's equation 16."""
    encoder = make_encoder(ModelConfig((1, 28, 28), widths=(64, 32)))
    init_weights(encoder, torch.Generator().manual_seed(0))
    for layer in (layer for layer in encoder if isinstance(layer, torch.nn.Linear)):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        uniform = scipy.stats.uniform(-bound, 2 * bound)
        assert scipy.stats.kstest(layer.weight.detach().flatten().numpy(), uniform.cdf).pvalue > 0.01
        assert not layer.bias.any()


def test_weights_come_from_the_generator_alone():
    config = ModelConfig((1, 8, 8), "conv", (4,), (12,))

    def weights(seed: int) -> torch.Tensor:
        network = make_decoder(config)
        init_weights(network, torch.Generator().manual_seed(seed))
        return torch.cat([value.flatten() for value in network.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
