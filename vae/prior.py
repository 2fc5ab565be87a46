"""From which z to draw pictures: the prior of the model, or one that is fitted to its codes after training.

A plain autoencoder has no prior: what is fitted here is our guess at where its codes lie, not a part of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vae.config import TrainConfig, has_prior
from vae.model import VAE

N_COMPONENTS = 10
N_FITTED = 5000  # codes at most that a mixture is fitted to


class Prior(Protocol):
    """A distribution of z."""

    @property
    def about(self) -> str:
        """How z is drawn, for a caption."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """z (n, D)."""


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I), that of a VAE."""

    n_dims: int
    about: str = "z ~ N(0, I), the prior"

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.n_dims, generator=generator)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with full covariances."""

    weights: Tensor  # (K,), summing to 1
    means: Tensor  # (K, D)
    roots: Tensor  # (K, D, D): lower triangles L with covariance L L^T

    @property
    def about(self) -> str:
        return f"z from a mixture of {len(self.weights)} Gaussians, fitted to the codes after training"

    @property
    def centre(self) -> Tensor:
        """The mean, (D,)."""
        return self.weights @ self.means

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.means.shape[1], 1, generator=generator)
        return self.means[which] + (self.roots[which] @ eps)[..., 0]

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) in nats, (N,), for z (N, D)."""
        parts = torch.distributions.MultivariateNormal(self.means, scale_tril=self.roots).log_prob(z[:, None])
        return torch.logsumexp(parts + self.weights.log(), 1)


@dataclass(frozen=True)
class SymbolFrequencies:
    """Each part of a code draws a codebook's symbol as often as the images have it there; which symbols come together
    is not in it."""

    shares: Tensor  # (P, K), each row summing to 1
    vectors: Tensor  # (K, S): of the codebook
    about: str = "each symbol drawn by its frequency in the codes, independently of the others"

    @property
    def centre(self) -> Tensor:
        """The mean, (D,)."""
        return (self.shares @ self.vectors).flatten()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        symbols = torch.multinomial(self.shares, n, replacement=True, generator=generator).T  # (n, P)
        return self.vectors[symbols].flatten(1)


def fit_mixture(mu: Tensor, logvar: Tensor, seed: int = 0, n_components: int = N_COMPONENTS) -> Mixture:
    """A mixture fitted to one z of each of the first N_FITTED images; to mu where codes have no spread (logvar -inf).

    mu, logvar: (N, D), N at least 2. A mixture after training: Ghosh et al., arXiv:1903.12436.
    """
    from sklearn.mixture import GaussianMixture  # here: only who draws from a mixture waits for this import

    mu, logvar = mu[:N_FITTED], logvar[:N_FITTED]
    eps = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed))
    z = mu + torch.exp(0.5 * logvar) * eps
    n_components = min(n_components, max(1, len(z) // 20))
    scale = float(z.std().clamp_min(1e-6))  # the regularizer is in the codes' own unit
    fitted = GaussianMixture(n_components, reg_covar=1e-4, random_state=seed, max_iter=50).fit((z / scale).numpy())
    covariances = torch.from_numpy(fitted.covariances_) * scale**2
    return Mixture(
        torch.from_numpy(fitted.weights_).float(),
        torch.from_numpy(fitted.means_).float() * scale,
        torch.linalg.cholesky(covariances).float(),
    )


def count_symbols(model: VAE, mu: Tensor) -> SymbolFrequencies:
    symbols = model.codebook.symbols(mu)  # (N, P)
    counts = torch.stack([part.bincount(minlength=model.config.n_symbols) for part in symbols.T])
    return SymbolFrequencies(counts / len(mu), model.codebook.vectors.detach().cpu())


def own_prior(model: VAE, config: TrainConfig, mu: Tensor, logvar: Tensor) -> Prior:
    """N(0, I) where training drew the codes there; else what is fitted to the codes mu, logvar (N, D) of images."""
    if has_prior(model.config, config):
        return StandardNormal(model.config.latent_dim)
    if model.config.latent == "codebook":
        return count_symbols(model, mu)
    return fit_mixture(mu, logvar)
