"""Encoded data, projections to the plane and back, and ways through latent space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vae.data import to_float
from vae.model import VAE

N_TSNE_STEPS = 750  # 250 with early exaggeration, 500 without: openTSNE's defaults


@dataclass(frozen=True)
class Latents:
    """Encoded images: q(z|x) = N(mu, exp(logvar)) of each, with its class."""

    mu: Tensor  # (N, D)
    logvar: Tensor  # (N, D)
    labels: Tensor  # (N,) int64
    tsne: Tensor | None = None  # (N, 2), a t-SNE of mu


@torch.inference_mode()
def encode_images(model: VAE, images: Tensor, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W) -> mu and logvar, (N, D) each, on the CPU."""
    device = next(model.parameters()).device
    pairs = [model.encode(to_float(batch.to(device))) for batch in images.split(batch_size)]
    mu, logvar = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return mu, logvar


@dataclass(frozen=True)
class Projection:
    """Codes as points in a plane, and the way back from the plane to a z.

    kind `z`: the plane is latent space itself (of one dimension: its line, the points spread upwards by chance).
    kind `pca`: z = origin + x * axes[0] + y * axes[1], exact on the plane.
    kind `tsne`: there is no way back; a spot stands for the encoded image that lies nearest.
    """

    kind: Literal["z", "pca", "tsne"]
    points: Tensor  # (N, 2)
    mu: Tensor  # (N, D)
    origin: Tensor  # (D,)
    axes: Tensor  # (2, D)
    explained_variance: float | None = None  # pca: the share of mu's variance that the plane shows, 0 to 1

    def to_z(self, x: float, y: float) -> tuple[Tensor, int | None]:
        """A spot of the plane -> z (D,), and the index of the encoded image that it stands for (t-SNE only)."""
        if self.kind == "tsne":
            index = int((self.points - torch.tensor([x, y])).square().sum(1).argmin())
            return self.mu[index], index
        return self.origin + x * self.axes[0] + y * self.axes[1], None


def project_axes(mu: Tensor) -> Projection:
    """The plane that a model of one or two latent dimensions has already."""
    n, n_dims = mu.shape
    if n_dims > 2:
        raise ValueError(f"mu has {n_dims} dimensions; only one or two are a plane")
    points, axes = mu, torch.eye(2)[:, :n_dims]
    if n_dims == 1:
        height = torch.rand(n, 1, generator=torch.Generator().manual_seed(0)) - 0.5
        points = torch.cat([mu, height], dim=1)
    return Projection("z", points, mu, torch.zeros(n_dims), axes)


def project_pca(mu: Tensor) -> Projection:
    """The plane of the two directions in which mu varies most, by singular value decomposition."""
    origin = mu.mean(0)
    centred = mu - origin
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    axes = directions[:2]
    # A direction and its opposite serve alike: the largest entry is made positive, so the map never flips.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = singular.square()
    share = float(variance[:2].sum() / variance.sum().clamp_min(1e-30))
    return Projection("pca", centred @ axes.T, mu, origin, axes, share)


def project_tsne(mu: Tensor, tsne: Tensor) -> Projection:
    return Projection("tsne", tsne, mu, mu.mean(0), torch.zeros(2, mu.shape[1]))


def compute_tsne(
    mu: Tensor, seed: int = 0, perplexity: float = 30.0, progress: Callable[[int, int], None] = lambda *_: None
) -> Tensor:
    """A t-SNE of mu (N, D) -> (N, 2), the same for the same seed. progress is called with steps so far, steps in all.

    openTSNE's FFT interpolation: benchmarks/tsne.py compares it with scikit-learn's.
    Source: van der Maaten & Hinton 2008; Linderman et al. 2019, doi:10.1038/s41592-018-0308-4.

    Raises ValueError if all codes are the same: they have no neighbours to keep together.
    """
    if torch.equal(mu, mu[:1].expand_as(mu)):
        raise ValueError("all codes are the same, so a t-SNE has nothing to show; train with a lower beta")
    from openTSNE import TSNE  # here: a second of import that only a t-SNE needs

    n_done = last = 0

    def report(iteration: int, _error: float, _embedding: np.ndarray) -> None:
        nonlocal n_done, last
        n_done += iteration - last if iteration > last else iteration  # the count starts anew after the exaggeration
        last = iteration
        progress(n_done, N_TSNE_STEPS)

    method = TSNE(
        perplexity=min(perplexity, (len(mu) - 1) / 3),
        random_state=seed,
        n_jobs=1,
        initialization="pca" if mu.shape[1] > 1 else "random",
        callbacks=report,
        callbacks_every_iters=10,
    )
    return torch.from_numpy(np.ascontiguousarray(method.fit(mu.double().numpy()), dtype=np.float32))


# Ways through latent space


def lerp(z_start: Tensor, z_end: Tensor, t: Tensor) -> Tensor:
    """The straight line. z_start, z_end: (D,); t: (T,) in [0, 1]. Returns (T, D), exact at t = 0 and t = 1."""
    t = t.unsqueeze(1)
    return (1 - t) * z_start + t * z_end


def slerp(z_start: Tensor, z_end: Tensor, t: Tensor) -> Tensor:
    """The way along the arc about the origin; where the ends differ in length, the length goes over evenly.

    z_start, z_end: (D,); t: (T,) in [0, 1]. Returns (T, D), exact at t = 0 and t = 1. In many dimensions the
    prior's mass lies near a sphere, which a straight line leaves.
    Source: Shoemake 1985; for latent spaces White, arXiv:1609.04468.
    An end at the origin has no direction, nor have opposite ends an arc of their own: there it is the straight line.
    """
    lengths = z_start.norm(), z_end.norm()
    if min(lengths) < 1e-6:
        return lerp(z_start, z_end, t)
    start, end = z_start / lengths[0], z_end / lengths[1]
    # atan2, not acos of the dot product: exact for near-parallel ends too.
    angle = 2 * torch.atan2((start - end).norm(), (start + end).norm())
    if angle < 1e-4 or angle > torch.pi - 1e-4:
        return lerp(z_start, z_end, t)
    s = t.unsqueeze(1)
    direction = (torch.sin((1 - s) * angle) * start + torch.sin(s * angle) * end) / torch.sin(angle)
    path = direction * lerp(lengths[0].view(1), lengths[1].view(1), t)
    # The ends themselves, not the ends but for rounding.
    return torch.where(s == 0, z_start, torch.where(s == 1, z_end, path))


def sample_prior(n: int, latent_dim: int, seed: int, temperature: float = 1.0) -> Tensor:
    """n draws from N(0, temperature^2 I): (n, D). A temperature below 1 stays nearer to the typical."""
    generator = torch.Generator().manual_seed(seed)
    return temperature * torch.randn(n, latent_dim, generator=generator)


def sample_posterior(mu: Tensor, logvar: Tensor, n: int, seed: int) -> Tensor:
    """n draws from one image's q(z|x) = N(mu, exp(logvar)). mu, logvar: (D,). Returns (n, D)."""
    generator = torch.Generator().manual_seed(seed)
    return mu + torch.exp(0.5 * logvar) * torch.randn(n, len(mu), generator=generator)


def nearest_codes(mu: Tensor, z: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Indices of the n codes nearest to z, nearest first, and their Euclidean distances. mu: (N, D), z: (D,)."""
    squares, indices = (mu - z).square().sum(1).topk(min(n, len(mu)), largest=False)
    return indices, squares.sqrt()
