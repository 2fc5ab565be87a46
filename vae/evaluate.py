"""Held-out figures: ELBO, importance-weighted likelihood, active units, neighbours. Nats per image throughout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.data import Images, to_float
from vae.latent import encode_images
from vae.model import VAE
from vae.objectives import recon_loss
from vae.train import held_out_terms

ACTIVE_UNIT_VARIANCE = 0.01  # Burda et al., arXiv:1509.00519, section 5.1
N_NEIGHBOURS = 5


@dataclass(frozen=True)
class Evaluation:
    """Means over the held-out images, sums over pixels and latent dimensions, in nats where not said otherwise."""

    n_images: int
    elbo: float  # -(recon_loss + kl), one z for each image
    recon_loss: float
    kl: float
    nll: float | None  # -log p(x), estimated by importance sampling; None if not asked for
    nll_stderr: float | None  # standard error of nll over the images
    n_importance_samples: int
    active_units: int  # latent dimensions with Var(mu) > 0.01 over the images
    mse: float  # of decode(mu), mean over pixels in [0, 1]
    knn_accuracy: float  # share of images whose 5 nearest training codes (mu) vote for their class


@torch.inference_mode()
def importance_weighted_nll(model: VAE, images: Tensor, n_samples: int, seed: int = 0) -> Tensor:
    """-log p(x) of each image in nats, (N,), estimated with z ~ q(z|x).

    log p(x) ~ logsumexp_k [log p(x|z_k) + log p(z_k) - log q(z_k|x)] - log K: too low on average, tighter with K.
    images: uint8 (N, C, H, W). Source: Burda et al., arXiv:1509.00519, equation 8.
    """
    generator = torch.Generator().manual_seed(seed)
    x = to_float(images)
    mu, logvar = model.encode(x)
    log_weights = torch.empty(n_samples, len(x))
    for k in range(n_samples):
        z = model.sample_z(mu, logvar, generator)
        # log p(z) - log q(z|x): the constants of the two normal densities cancel.
        eps_squared = (z - mu).square() * torch.exp(-logvar)
        log_ratio = 0.5 * (eps_squared + logvar - z.square()).sum(1)
        log_weights[k] = log_ratio - recon_loss(model.decode(z), x, model.config)
    return math.log(n_samples) - torch.logsumexp(log_weights, dim=0)


@torch.inference_mode()
def reconstruction_mse(model: VAE, images: Tensor, mu: Tensor) -> float:
    """Mean squared error of decode(mu) over all pixels, in units of the pixels' range 0 to 1."""
    pairs = zip(images.split(500), mu.split(500), strict=True)
    total = sum((model.recon(codes) - to_float(batch)).square().sum().item() for batch, codes in pairs)
    return total / images.numel()


def active_dims(mu: Tensor) -> Tensor:
    """Whether mu varies from image to image in each latent dimension; the others have collapsed to the prior.

    mu: (N, D). Returns (D,) bool. Source: Burda et al., arXiv:1509.00519, section 5.1.
    """
    return mu.var(0) > ACTIVE_UNIT_VARIANCE


def active_units(mu: Tensor) -> int:
    """How many latent dimensions are in use. mu: (N, D)."""
    return int(active_dims(mu).sum())


def knn_accuracy(train_mu: Tensor, train_labels: Tensor, mu: Tensor, labels: Tensor) -> float:
    """Share of codes mu (N, D) that the majority of their 5 nearest training codes gives the right class, 0 to 1."""
    from sklearn.neighbors import KNeighborsClassifier  # here: a second of import that only evaluation needs

    classifier = KNeighborsClassifier(n_neighbors=min(N_NEIGHBOURS, len(train_mu)))
    classifier.fit(train_mu.numpy(), train_labels.numpy())
    return float(classifier.score(mu.numpy(), labels.numpy()))


def evaluate(
    model: VAE,
    train: Images,
    held_out: Images,
    n_importance_samples: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """All figures of a model on the CPU. progress is called with held-out images done, images in all."""
    mu, _ = encode_images(model, held_out.images)
    train_mu, _ = encode_images(model, train.images)
    terms = held_out_terms(model, held_out.images, beta=1.0, seed=seed)
    nll = stderr = None
    if n_importance_samples:
        parts = []
        for i, batch in enumerate(held_out.images.split(250)):
            parts.append(importance_weighted_nll(model, batch, n_importance_samples, seed + i))
            if progress:
                progress(sum(map(len, parts)), len(held_out.images))
        values = torch.cat(parts).double()
        nll, stderr = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    return Evaluation(
        n_images=len(held_out.images),
        elbo=-terms.loss,
        recon_loss=terms.recon_loss,
        kl=terms.kl,
        nll=nll,
        nll_stderr=stderr,
        n_importance_samples=n_importance_samples,
        active_units=active_units(mu),
        mse=reconstruction_mse(model, held_out.images, mu),
        knn_accuracy=knn_accuracy(train_mu, train.labels, mu, held_out.labels),
    )
