"""Likelihoods, divergences and penalties: each a named function with its source. What is a likelihood is in nats.

Of a VAE: loss = recon_loss + beta * kl;  elbo = -(recon_loss + kl), higher is better. train.py's `batch_terms` says
what stands in the KL's place under other objectives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vae.networks import EXACT

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


class _Limit(torch.autograd.Function):
    """clamp, but where x is beyond a limit, a gradient that would bring it back passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.limits
        leads_out = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))  # a step goes against the gradient
        return grad.masked_fill(leads_out, 0), None, None


def limit(x: Tensor, low: float, high: float) -> Tensor:
    """x between two limits. Its gradient is 0 beyond them only where a step along it would lead further out, so that
    what was pushed over a limit can come back; under `clamp` it would stay for ever."""
    return _Limit.apply(x, low, high)


# The greatest |logit| of a continuous Bernoulli in a model (its authors' code keeps probabilities from 1e-4): without a
# limit, the density of pixels that are exactly 0 or 1 would grow for ever, and the loss would count little else.
LARGEST_LOGIT = math.log(0.9999 / 0.0001)


def continuous_bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) of each image under a continuous Bernoulli likelihood, a density over [0, 1]; in nats, summed over
    pixels, negative where the fit is close.

    logits, x: (..., C, H, W), x in [0, 1]. Returns (...). The mean of that density is `continuous_bernoulli_mean`.
    Source: Loaiza-Ganem & Cunningham, arXiv:1907.06845.

    Raises ValueError if the shapes differ.
    """
    # log C = log(l / tanh(l / 2)), l the logit: 0/0 at 0, where its Taylor series is exact to float32.
    near = logits.abs() < 0.1
    safe = torch.where(near, torch.ones_like(logits), logits)
    far_value = torch.log(safe.abs() / torch.tanh(safe.abs() / 2))
    squares = logits.square()
    near_value = math.log(2) + squares / 12 - squares.square() * 7 / 1440
    log_constant = torch.where(near, near_value, far_value)
    return bernoulli_nll(logits, x) - log_constant.flatten(-3).sum(-1)


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """The mean of a continuous Bernoulli density, (...) in [0, 1], for logits (...): 1 / (1 - e^-l) - 1 / l."""
    near = logits.abs() < 0.1
    safe = torch.where(near, torch.ones_like(logits), logits)
    return torch.where(near, 0.5 + logits / 12 - logits**3 / 720, 0.5 / torch.tanh(safe / 2) + 0.5 - 1 / safe)


def gaussian_nll(recon: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """-log N(x | recon, sigma^2) of each image, in nats, summed over pixels; negative where the fit is close.

    recon, x: (..., C, H, W) in [0, 1]; sigma in the same unit, of all pixels or of each. Returns (...).
    Source: Kingma & Welling, arXiv:1312.6114, appendix C.2; one learned sigma: Rybkin et al., arXiv:2006.13202.

    Raises ValueError if the shapes of recon and x differ.
    """
    _check_same_shape(recon, x)
    log_sigma = torch.as_tensor(sigma).log()
    errors = 0.5 * ((x - recon) / sigma).square() + log_sigma + 0.5 * math.log(2 * math.pi)
    return errors.flatten(-3).sum(-1)


def laplace_nll(recon: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """-log Laplace(x | recon, sigma) of each image, in nats, summed over pixels: absolute error over the scale sigma.

    recon, x: (..., C, H, W) in [0, 1]; sigma in the same unit, of all pixels or of each. Returns (...).

    Raises ValueError if the shapes of recon and x differ.
    """
    _check_same_shape(recon, x)
    log_scale = torch.as_tensor(sigma).log()
    return ((x - recon).abs() / sigma + log_scale + math.log(2)).flatten(-3).sum(-1)


def optimal_sigma(recon: Tensor, x: Tensor) -> float:
    """The one sigma under which images are likeliest given their reconstructions: the root mean squared error.

    recon, x: (..., C, H, W). Source: Rybkin et al., arXiv:2006.13202, section 3.2.
    """
    return (x - recon).square().mean().sqrt().item()


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


def total_correlation(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z) || prod_d q(z_d)) of the codes of all images, in nats, (): how far their dimensions are from independent.
    Estimated from one batch, whose posteriors stand for all; biased, and for small batches strongly so.

    z, mu, logvar: (B, D), z ~ q(z|x) of each image. Source: Chen et al., arXiv:1802.04942, equation S3, whose share
    1 / (N B) of each posterior is 1 / B here: it has the same gradient, but a value that is (D - 1) log N lower. The
    paper's exceeds the whole KL.
    """
    difference = z[:, None] - mu[None]
    log_q = -0.5 * (difference.square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi))  # (B, B, D)
    log_share = math.log(len(z))
    joint = torch.logsumexp(log_q.sum(2), 1) - log_share
    product = (torch.logsumexp(log_q, 1) - log_share).sum(1)
    return (joint - product).mean()


def capacity_gap(kl: Tensor, capacity: float) -> Tensor:
    """|KL - capacity|, in nats, (): the distance of the mean KL of a batch from what is aimed at.

    kl: (B, D), of `kl_per_dim`; capacity: nats. Source: Burgess et al., arXiv:1804.03599, equation 8.
    """
    return (kl.sum(1).mean() - capacity).abs()


# Penalties of codes that are points


def l1_penalty(code: Tensor) -> Tensor:
    """The sum of absolute values of each code, (B,). code: (B, D). Source: Olshausen & Field 1996."""
    return code.abs().sum(1)


def l2_penalty(code: Tensor) -> Tensor:
    """The sum of squares of each code, (B,). code: (B, D). Source: Ghosh et al., arXiv:1903.12436, equation 8."""
    return code.square().sum(1)


def sparsity_kl(code: Tensor, rho: float) -> Tensor:
    """KL between Bernoulli(rho) and Bernoulli(mean activation of a dimension), summed over dimensions, in nats, ().

    code: (B, D) between 0 and 1; the mean is over the batch. Source: Ng, Sparse autoencoder, CS294A lecture notes 2011.
    """
    activation = code.mean(0).clamp(1e-6, 1 - 1e-6)
    zeros = rho * (math.log(rho) - activation.log())
    return (zeros + (1 - rho) * (math.log(1 - rho) - (1 - activation).log())).sum()


MAX_EXACT_JACOBIAN = 16  # latent dimensions; of larger codes, the norm is estimated
N_JACOBIAN_PROBES = 4


def contractive_penalty(code: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """The squared Frobenius norm of the encoder's Jacobian d code / d x for each image, (B,).

    code: (B, D), made from x (B, C, H, W), which requires grad. Exact for D up to MAX_EXACT_JACOBIAN; beyond, the mean
    of |v J|^2 over random v ~ N(0, I), which is unbiased (Hutchinson 1990).
    Source: Rifai et al., Contractive auto-encoders, ICML 2011.
    """
    n_images, n_dims = code.shape
    if n_dims <= MAX_EXACT_JACOBIAN:
        directions = torch.eye(n_dims, device=code.device)[:, None].expand(-1, n_images, -1)
        share = 1.0
    else:
        shape = (N_JACOBIAN_PROBES, n_images, n_dims)
        directions = torch.randn(shape, generator=generator, device=code.device)
        share = 1 / N_JACOBIAN_PROBES
    (rows,) = torch.autograd.grad(code, x, directions, create_graph=True, is_grads_batched=True)
    return share * rows.square().sum((0, 2, 3, 4))


COMMITMENT = 0.25  # van den Oord et al., section 3.2


def codebook_loss(code: Tensor, nearest: Tensor) -> Tensor:
    """|sg(code) - nearest|^2 + COMMITMENT |code - sg(nearest)|^2 of each image, (B,); sg stops the gradient.

    code: (B, D), of the encoder; nearest: (B, D), the codebook's vectors in its place.
    Source: van den Oord et al., arXiv:1711.00937, equation 3.
    """
    return ((code.detach() - nearest).square() + COMMITMENT * (code - nearest.detach()).square()).sum(1)


# Distances between two sets of codes, each (B, D): those of a batch, and as many of the prior

KERNEL_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
N_DIRECTIONS = 50


def mmd(a: Tensor, b: Tensor, kernel: str) -> Tensor:
    """Squared maximum mean discrepancy, unbiased, so at times below 0; ().

    kernel: mmd_rbf, the sum of exp(-d^2 / c), or mmd_imq, the sum of c / (c + d^2); d the distance of two codes,
    c = 2 D times each of KERNEL_SCALES. Source: Gretton et al. 2012, lemma 6; in autoencoders: Zhao et al.,
    arXiv:1706.02262; Tolstikhin et al., arXiv:1711.01558, whose kernel and scales these are.
    """

    def total(squares: Tensor) -> Tensor:
        scales = [2 * a.shape[1] * scale for scale in KERNEL_SCALES]
        if kernel == "mmd_rbf":
            return torch.stack([torch.exp(-squares / scale).sum() for scale in scales]).sum()
        return torch.stack([(scale / (scale + squares)).sum() for scale in scales]).sum()

    n, m, at_zero = len(a), len(b), float(len(KERNEL_SCALES))  # at_zero: the kernel of a code with itself
    within = (total(_squares(a, a)) - n * at_zero) / (n * (n - 1)) + (total(_squares(b, b)) - m * at_zero) / (
        m * (m - 1)
    )
    return within - 2 * total(_squares(a, b)) / (n * m)


def sliced_wasserstein(a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
    """The mean over N_DIRECTIONS random directions of the squared 2-Wasserstein distance along them; ().

    a, b: as many of each. Source: Bonneel et al. 2015; in autoencoders: Kolouri et al., arXiv:1804.01947.
    """
    directions = torch.randn(a.shape[1], N_DIRECTIONS, generator=generator, device=a.device)
    directions = directions / directions.norm(dim=0)
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean()


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'|, unbiased, so at times below 0; (). Source: Székely & Rizzo 2013."""
    n, m = len(a), len(b)
    within = torch.pdist(a).sum() * 2 / (n * (n - 1)) + torch.pdist(b).sum() * 2 / (m * (m - 1))
    return 2 * torch.cdist(a, b, compute_mode=EXACT).mean() - within


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, (A, B)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


# The bound


def log_importance_weights(
    model: VAE, x: Tensor, mu: Tensor, logvar: Tensor, eps: Tensor, y: Tensor | None = None, chunk_size: int = 1000
) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) at z = mu + std * eps, in nats.

    x: (B, C, H, W) in [0, 1]; mu, logvar: (B, D); eps: (K, B, D); y: (B,) where labels are given. Returns (K, B).
    Only so many images are decoded at once that they stay in a processor's cache.
    """
    std = torch.exp(0.5 * logvar)
    parts = []
    for part in eps.split(max(1, chunk_size // len(x))):
        z = mu + std * part
        classes = None if y is None else y.repeat(len(part))
        logits = model.decode(z.flatten(0, 1), classes).unflatten(0, part.shape[:2])
        # log p(z) - log q(z|x): the constants of the two normal densities cancel.
        log_ratio = 0.5 * (part.square() + logvar - z.square()).sum(-1)
        parts.append(log_ratio - model.recon_loss(logits, x))
    return torch.cat(parts)


def iwae_loss(
    model: VAE,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    n_samples: int,
    generator: torch.Generator,
    y: Tensor | None = None,
) -> Tensor:
    """-log 1/K sum_k p(x, z_k) / q(z_k|x) of each image with z_k ~ q(z|x), in nats, (B,): an upper bound of -log p(x),
    the tighter the larger K = n_samples is.

    x: (B, C, H, W) in [0, 1]; mu, logvar: (B, D), as the model encodes x; y: (B,) where labels are given.
    The gradient is unbiased, but autograd goes through one z of each image only, drawn in proportion to its weight: a
    third of the work (Burda et al., section 3). That of the encoder is the doubly reparameterized one, w_k^2 times
    the path's derivative, whose noise does not grow with K.
    Source: Burda et al., arXiv:1509.00519, equation 8; Tucker et al., arXiv:1810.04152, equation 7.
    """
    with torch.no_grad():
        eps = torch.randn(n_samples, *mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        log_weights = log_importance_weights(model, x, mu, logvar, eps, y)
        bound = torch.logsumexp(log_weights, 0) - math.log(n_samples)
        shares = torch.softmax(log_weights, 0).nan_to_num(1.0).T  # (B, K); who trains sees that the bound is NaN
        drawn = torch.multinomial(shares, 1, generator=generator)
        share = shares.gather(1, drawn)  # (B, 1)
    z = mu + torch.exp(0.5 * logvar) * eps[drawn[:, 0], torch.arange(len(x), device=mu.device)]
    if z.requires_grad:
        z.register_hook(lambda grad: grad * share)
    log_q = -0.5 * ((z - mu.detach()).square() * torch.exp(-logvar.detach()) + logvar.detach()).sum(1)
    log_weight = -0.5 * z.square().sum(1) - log_q - model.recon_loss(model.decode(z, y), x)
    return log_weight.detach() - log_weight - bound


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} were given; they must match")
