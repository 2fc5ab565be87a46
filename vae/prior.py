"""From which z to draw pictures: the prior of the model, or one that is fitted to its codes after training.

A plain autoencoder has no prior: what is fitted here is our guess at where its codes lie, not a part of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from vae.model import VAE

PRIOR_FILE = "prior.safetensors"
N_COMPONENTS = 20
N_FITTED = 10_000  # codes at most that a mixture is fitted to


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
    """Each part of a code draws a codebook's symbol as often as the training images have it there; that which symbols
    come together is not in it."""

    shares: Tensor  # (P, K), each row summing to 1
    vectors: Tensor  # (K, S): of the codebook
    about: str = "each symbol drawn by its frequency in the training images, independently of the others"

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


def fit_prior(model: VAE, mu: Tensor, logvar: Tensor, seed: int = 0) -> Prior:
    """The prior of a VAE, which needs no codes; else one that is fitted to the codes (N, D) of training images."""
    if model.config.latent == "gaussian":
        return StandardNormal(model.config.latent_dim)
    if model.config.latent == "codebook":
        return count_symbols(model, mu)
    return fit_mixture(mu, logvar, seed)


def prior_to_bytes(prior: Prior) -> bytes:
    """Of a fitted one."""
    tensors = {name: value for name, value in vars(prior).items() if isinstance(value, Tensor)}
    return tensors_to_bytes({name: value.contiguous() for name, value in tensors.items()})


def read_prior(folder: Path, n_dims: int) -> Prior | None:
    """The prior that was fitted to a checkpoint's codes; None if there is none, or it is no such file."""
    try:
        tensors = load_tensors((folder / PRIOR_FILE).read_bytes())
        prior: Prior = (
            SymbolFrequencies(tensors["shares"], tensors["vectors"]) if "shares" in tensors else Mixture(**tensors)
        )
        fits = prior.sample(2, torch.Generator().manual_seed(0)).shape == (2, n_dims)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RuntimeError, IndexError):
        return None
    return prior if fits else None
