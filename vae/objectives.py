"""The terms of the ELBO: each a named function with its source. Everything is in nats.

loss = recon_loss + beta * kl;  elbo = -(recon_loss + kl), higher is better.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vae.config import ModelConfig

if TYPE_CHECKING:
    from vae.model import VAE


class _BernoulliNLL(torch.autograd.Function):
    """-log Bernoulli(x | sigmoid(logits)), summed over the last three dimensions.

    Written out because binary_cross_entropy_with_logits, softplus and logsigmoid are 5 to 20 times slower than their
    parts on a CPU in torch 2.14, and autograd would pass over (B, C, H, W) once for each of those parts. A logarithm
    costs more than a product, so two pixels share one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        fit = (logits * x).flatten(-3).sum(-1)
        if logits.shape[-1] % 2 or not logits.amax() <= 40:  # or no number
            # log(1 + e^l) = relu(l) - log sigmoid(|l|): neither term can overflow.
            log_partition = torch.relu(logits).sub_(logits.abs().sigmoid_().log_())
            return log_partition.flatten(-3).sum(-1).sub_(fit)
        left, right = logits.flatten(-3).exp().add_(1).chunk(2, -1)  # at most e^40 each
        return (left * right).log_().sum(-1).sub_(fit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        return torch.sigmoid(logits).sub_(x).mul_(grad[..., None, None, None]), None


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) of each image under a Bernoulli likelihood, in nats, summed over pixels.

    logits, x: (..., C, H, W); x in [0, 1]: grey values count as probabilities, as in most MNIST examples.
    Returns (...). No gradient flows to x.
    Source: Kingma & Welling, arXiv:1312.6114, appendix C.1.

    Raises ValueError if the shapes differ: broadcasting would be quietly wrong.
    """
    _check_same_shape(logits, x)
    return _BernoulliNLL.apply(logits, x)


def gaussian_nll(recon: Tensor, x: Tensor, sigma: float) -> Tensor:
    """-log N(x | recon, sigma^2) of each image, in nats, summed over pixels; negative where the fit is close.

    recon, x: (..., C, H, W) in [0, 1]; sigma in the same unit. Returns (...).
    Source: Kingma & Welling, arXiv:1312.6114, appendix C.2, with a fixed sigma.

    Raises ValueError if the shapes differ.
    """
    _check_same_shape(recon, x)
    n_pixels = x.shape[-3:].numel()
    squares = (x - recon).square().flatten(-3).sum(-1)
    return squares / (2 * sigma**2) + n_pixels * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def recon_loss(logits: Tensor, x: Tensor, config: ModelConfig) -> Tensor:
    """-log p(x|z) of each image under the model's likelihood, in nats, summed over pixels.

    logits: what `VAE.decode` gives, (..., C, H, W); x: the same shape, in [0, 1]. Returns (...).
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


def log_importance_weights(
    model: VAE, x: Tensor, mu: Tensor, logvar: Tensor, eps: Tensor, chunk_size: int = 1000
) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) at z = mu + std * eps, in nats.

    x: (B, C, H, W) in [0, 1]; mu, logvar: (B, D); eps: (K, B, D). Returns (K, B). So many images are decoded at once
    that they stay in a processor's cache.
    """
    std = torch.exp(0.5 * logvar)
    parts = []
    for part in eps.split(max(1, chunk_size // len(x))):
        z = mu + std * part
        logits = model.decode(z.flatten(0, 1)).unflatten(0, part.shape[:2])
        # log p(z) - log q(z|x): the constants of the two normal densities cancel.
        log_ratio = 0.5 * (part.square() + logvar - z.square()).sum(-1)
        parts.append(log_ratio - recon_loss(logits, x.expand_as(logits), model.config))
    return torch.cat(parts)


def iwae_loss(model: VAE, x: Tensor, mu: Tensor, logvar: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """-log 1/K sum_k p(x, z_k) / q(z_k|x) of each image with z_k ~ q(z|x), in nats, (B,): an upper bound of -log p(x),
    the tighter the larger K = n_samples is.

    x: (B, C, H, W) in [0, 1]; mu, logvar: (B, D), as the model encodes x.
    The gradient is unbiased, but autograd goes through one z of each image only, drawn in proportion to its weight: a
    third of the work (Burda et al., section 3). That of the encoder is the doubly reparameterized one, w_k^2 times
    the path's derivative, whose noise does not grow with K.
    Source: Burda et al., arXiv:1509.00519, equation 8; Tucker et al., arXiv:1810.04152, equation 7.
    """
    with torch.no_grad():
        eps = torch.randn(n_samples, *mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        log_weights = log_importance_weights(model, x, mu, logvar, eps)
        bound = torch.logsumexp(log_weights, 0) - math.log(n_samples)
        shares = torch.softmax(log_weights, 0).T  # (B, K)
        drawn = torch.multinomial(shares, 1, generator=generator)
        share = shares.gather(1, drawn)  # (B, 1)
    z = mu + torch.exp(0.5 * logvar) * eps[drawn[:, 0], torch.arange(len(x), device=mu.device)]
    if z.requires_grad:
        z.register_hook(lambda grad: grad * share)
    log_q = -0.5 * ((z - mu.detach()).square() * torch.exp(-logvar.detach()) + logvar.detach()).sum(1)
    log_weight = -0.5 * z.square().sum(1) - log_q - recon_loss(model.decode(z), x, model.config)
    return log_weight.detach() - log_weight - bound


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} were given; they must match")
