"""The terms of the ELBO: each a named function with its source. Everything is in nats.

loss = recon_loss + beta * kl;  elbo = -(recon_loss + kl), higher is better.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vae.config import ModelConfig


class _BernoulliNLL(torch.autograd.Function):
    """-log Bernoulli(x | sigmoid(logits)), summed over all but the first dimension.

    Written out because binary_cross_entropy_with_logits, softplus and logsigmoid are 5 to 20 times slower than their
    parts on a CPU in torch 2.14, and autograd would pass over (B, C, H, W) once for each of those parts.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        # log(1 + e^l) = relu(l) - log sigmoid(|l|): neither term can overflow.
        log_partition = torch.relu(logits).sub_(logits.abs().sigmoid_().log_())
        return log_partition.sub_(logits * x).flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        return torch.sigmoid(logits).sub_(x).mul_(grad.view(-1, *[1] * (x.ndim - 1))), None


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) of each image under a Bernoulli likelihood, in nats, summed over pixels.

    logits, x: (B, C, H, W); x in [0, 1]: grey values count as probabilities, as in most MNIST examples.
    Returns (B,). No gradient flows to x.
    Source: Kingma & Welling, arXiv:1312.6114, appendix C.1.

    Raises ValueError if the shapes differ: broadcasting would be quietly wrong.
    """
    _check_same_shape(logits, x)
    return _BernoulliNLL.apply(logits, x)


def gaussian_nll(recon: Tensor, x: Tensor, sigma: float) -> Tensor:
    """-log N(x | recon, sigma^2) of each image, in nats, summed over pixels; negative where the fit is close.

    recon, x: (B, C, H, W) in [0, 1]; sigma in the same unit. Returns (B,).
    Source: Kingma & Welling, arXiv:1312.6114, appendix C.2, with a fixed sigma.

    Raises ValueError if the shapes differ.
    """
    _check_same_shape(recon, x)
    n_pixels = x[0].numel()
    squares = (x - recon).square().flatten(1).sum(1)
    return squares / (2 * sigma**2) + n_pixels * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def recon_loss(logits: Tensor, x: Tensor, config: ModelConfig) -> Tensor:
    """-log p(x|z) of each image under the model's likelihood, in nats, summed over pixels.

    logits: what `VAE.decode` gives, (B, C, H, W); x: (B, C, H, W) in [0, 1]. Returns (B,).
    """
    if config.likelihood == "bernoulli":
        return bernoulli_nll(logits, x)
    return gaussian_nll(torch.sigmoid(logits), x, config.sigma)


def kl_per_dim(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) || p(z)) of each image and latent dimension, in nats.

    q = N(mu, exp(logvar)), p = N(0, 1).
    mu, logvar: (B, D). Returns (B, D), all >= 0; sum over D for the ELBO's KL.
    Source: Kingma & Welling, arXiv:1312.6114, appendix B.

    Raises ValueError if the shapes differ.
    """
    _check_same_shape(mu, logvar)
    # expm1(v) - v, not exp(v) - v - 1: a collapsed dimension has logvar near 0,
    # where the subtraction leaves float32 no correct digits.
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar)


def free_bits_kl(kl: Tensor, free_bits: float) -> Tensor:
    """What the KL costs under free bits: sum over dimensions of max(free_bits, mean KL over the images), in nats, ().

    kl: (B, D), of `kl_per_dim`; free_bits: nats for each dimension. A dimension whose KL is lower is not pressed
    further down, so it does not collapse onto the prior.
    Source: Kingma et al., arXiv:1606.04934, appendix C.8, with each dimension a group of its own.
    """
    return kl.mean(0).clamp_min(free_bits).sum()


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} were given; they must match")
