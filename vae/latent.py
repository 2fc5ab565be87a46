"""Encoded data, projections to the plane and back, and ways through latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vae.data import to_float
from vae.model import VAE
from vae.networks import EXACT

# Steps of a t-SNE, and by how much attraction is exaggerated in them. It eases in stages where openTSNE goes from 12 to
# 1 at once, after 250 steps of 750: neighbours are as well kept in about half the steps, and the late ones, on the
# widest map, are the slowest. Exaggeration as a way from clusters to detail: Böhm et al. 2022, arXiv:2007.08902.
TSNE_PHASES = ((100, 12), (50, 4), (50, 2), (200, 1))
N_TSNE_STEPS = sum(n_steps for n_steps, _ in TSNE_PHASES)


@dataclass(frozen=True)
class Latents:
    """Encoded images: q(z|x) = N(mu, exp(logvar)) of each, with its class."""

    mu: Tensor  # (N, D)
    logvar: Tensor  # (N, D)
    labels: Tensor  # (N,) int64; all 0 where the images have none
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)  # by kind, of EMBEDDINGS: (N, 2) each, made from mu
    values: Mapping[str, Tensor] = field(default_factory=dict)  # anything numeric of the images, by name: (N,) each
    has_labels: bool = True

    @property
    def finite(self) -> Tensor:
        """(N,) bool: the codes that are numbers, which are those that can be shown."""
        return (self.mu.isfinite() & (self.logvar < torch.inf)).all(1)  # -inf: no spread


@torch.inference_mode()
def encode_images(
    model: VAE, images: Tensor, labels: Tensor | None = None, batch_size: int = 1000
) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W), labels (N,) for a model that is told them -> mu and logvar, (N, D) each, on the CPU."""
    device = next(model.parameters()).device
    pairs = [
        model.encode(to_float(batch.to(device)), y) for batch, y in _batches(model, images, labels, batch_size, device)
    ]
    mu, logvar = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return mu, logvar


@torch.inference_mode()
def image_recon_loss(
    model: VAE, images: Tensor, mu: Tensor, labels: Tensor | None = None, batch_size: int = 1000
) -> Tensor:
    """-log p(x | z = mu) of each image in nats, summed over pixels, (N,), on the CPU: what its code's picture misses.

    images: uint8 (N, C, H, W); mu: (N, D). At z = mu, not at a sample of z as in the ELBO: the same at each call.
    """
    device = next(model.parameters()).device
    pairs = zip(_batches(model, images, labels, batch_size, device), mu.split(batch_size), strict=True)
    parts = [
        model.recon_loss(model.decode(codes.to(device), y), to_float(batch.to(device))) for (batch, y), codes in pairs
    ]
    return torch.cat(parts).cpu()


def _batches(
    model: VAE, images: Tensor, labels: Tensor | None, size: int, device: torch.device
) -> list[tuple[Tensor, Tensor | None]]:
    """Images, with the classes that the model is told of them."""
    batches = images.split(size)
    if model.config.labels != "given" or labels is None:
        return [(batch, None) for batch in batches]
    return [(batch, y.to(device)) for batch, y in zip(batches, labels.split(size), strict=True)]


EMBEDDINGS = {"tsne": "t-SNE", "umap": "UMAP"}  # planes without a way back to z


@dataclass(frozen=True)
class Projection:
    """Codes as points in a plane, and the way back from the plane to a z: z = origin + x * axes[0] + y * axes[1].

    kind `z`: the plane is latent space itself (of one dimension: its line, the points spread upwards by chance).
    kind `pca`: the two directions in which mu varies most, about its mean.
    kind `dims`: two of the dimensions themselves; the others are held at the origin's.
    kind `tsne`, `umap`: there is no way back; a spot stands for the encoded image that lies nearest.
    Codes that are no numbers keep their row, of NaN.
    """

    kind: Literal["z", "pca", "dims", "tsne", "umap"]
    points: Tensor  # (N, 2)
    mu: Tensor  # (N, D)
    origin: Tensor  # (D,)
    axes: Tensor  # (2, D), orthonormal; of one dimension, the second is 0
    explained_variance: float | None = None  # pca: the share of mu's variance that the plane shows, 0 to 1

    @property
    def invertible(self) -> bool:
        return self.kind not in EMBEDDINGS

    def to_z(self, x: float, y: float) -> tuple[Tensor, int | None]:
        """A spot of the plane -> z (D,), and the index of the encoded image that it stands for, if it does."""
        if not self.invertible:
            squares = (self.points - torch.tensor([x, y])).square().sum(1)
            index = int(squares.nan_to_num(torch.inf).argmin())
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
    """The plane of the two directions in which mu varies most, by singular value decomposition.

    One code alone varies in no direction: its plane is that of the first two dimensions.
    """
    finite = mu[mu.isfinite().all(1)]
    origin = finite.mean(0)
    centred = mu - origin
    _, singular, directions = torch.linalg.svd(finite - origin, full_matrices=len(finite) < 2)
    axes = directions[:2]
    # A direction and its opposite serve alike: the largest entry is made positive, so the map never flips.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = singular.square()
    share = float(variance[:2].sum() / variance.sum().clamp_min(1e-30))
    return Projection("pca", centred @ axes.T, mu, origin, axes, share)


def project_dims(mu: Tensor, dims: tuple[int, int], hold: Tensor) -> Projection:
    """The plane of two of the latent dimensions; on it, the others are those of `hold` (D,).

    Raises ValueError if the two are the same or are no dimensions of mu.
    """
    n_dims = mu.shape[1]
    if len(set(dims)) != 2 or not all(0 <= dim < n_dims for dim in dims):
        raise ValueError(f"dims {dims} were given; use two different ones from 0 to {n_dims - 1}")
    axes = torch.eye(n_dims)[list(dims)]
    return Projection("dims", mu[:, list(dims)], mu, hold * (1 - axes.sum(0)), axes)


def project_embedding(kind: Literal["tsne", "umap"], mu: Tensor, points: Tensor) -> Projection:
    """A t-SNE or UMAP of mu, (N, 2), as a map."""
    return Projection(kind, points, mu, torch.zeros(mu.shape[1]), torch.zeros(2, mu.shape[1]))


def trustworthiness(mu: Tensor, points: Tensor, n_neighbors: int = 5, n_queries: int = 1000) -> float:
    """How far the map's neighbours are neighbours in latent space too: 1 if all are, about 0.5 by chance.

    T = 1 - 2 / (n k (2 n - 3 k - 1)) sum_i sum_{j in U_k(i)} (r(i, j) - k), where j are those of i's k nearest on the
    map that are not among its k nearest in latent space, and r is their rank there. The outer sum is over n_queries of
    the points, evenly chosen: all of 10,000 would take a minute.
    mu: (N, D), points: (N, 2). NaN where there are too few points to tell.
    Source: Venna & Kaski 2001; scikit-learn's function of this name for all points.
    """
    keep = mu.isfinite().all(1) & points.isfinite().all(1)
    mu, points = mu[keep], points[keep]
    n, k = len(mu), n_neighbors
    if n < 2 * k + 2:
        return float("nan")
    queries = torch.linspace(0, n - 1, min(n, n_queries)).long()
    penalty = 0
    for batch in queries.split(250):
        rows = torch.arange(len(batch))
        on_map = torch.cdist(points[batch], points, compute_mode=EXACT)
        on_map[rows, batch] = torch.inf
        in_space = torch.cdist(mu[batch], mu, compute_mode=EXACT)
        in_space[rows, batch] = torch.inf
        near = on_map.topk(k, largest=False).indices
        for column in near.T:
            ranks = (in_space < in_space[rows, column].unsqueeze(1)).sum(1) + 1
            penalty += int((ranks - k).clamp_min(0).sum())
    return 1 - 2 * penalty / (len(queries) * k * (2 * n - 3 * k - 1))


def inside(points: Tensor, outline: Tensor) -> Tensor:
    """Which points lie inside a closed outline. points: (N, 2), outline: (V, 2), in order. Returns (N,) bool.

    By the number of its sides that a ray from the point to the right crosses: inside if odd.
    """
    x, y = points[:, 0], points[:, 1]
    odd = torch.zeros(len(points), dtype=torch.bool)
    for (x1, y1), (x2, y2) in zip(outline.tolist(), outline.roll(-1, 0).tolist(), strict=True):
        if y1 != y2:
            spans = (y1 <= y) != (y2 <= y)
            odd ^= spans & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return odd


def compute_tsne(
    mu: Tensor,
    seed: int = 0,
    perplexity: float = 30.0,
    progress: Callable[[int, int, Tensor], None] = lambda *_: None,
) -> Tensor:
    """A t-SNE of mu (N, D) -> (N, 2), the same for the same seed and whatever the number of threads, torch's.

    progress is called every 10 steps with steps so far, steps in all and the map (N, 2) so far, a copy.
    openTSNE, its settings chosen by time and trustworthiness: benchmarks/tsne.py compares it with scikit-learn's.
    Source: van der Maaten & Hinton 2008. Repulsion is summed over a tree, van der Maaten 2014, and from 10,000 codes on
    interpolated on a grid, Linderman et al. 2019, doi:10.1038/s41592-018-0308-4.

    Raises ValueError if all codes are the same: they have no neighbours to keep together.
    """
    if torch.equal(mu, mu[:1].expand_as(mu)):
        raise ValueError("all codes are the same, so a t-SNE has nothing to show; train with a lower beta")
    from openTSNE import TSNE  # here: a second of import that only a t-SNE needs

    method = TSNE(
        perplexity=min(perplexity, (len(mu) - 1) / 3),
        neighbors="exact",  # of 10,000 codes eight times faster than Annoy, openTSNE's choice, and without its misses
        min_num_intervals=25,  # not 50: while the map is small a coarser grid is as exact, and three times faster
        initialization="pca" if mu.shape[1] > 1 else "random",
        random_state=seed,
        n_jobs=torch.get_num_threads(),
    )
    points = method.prepare_initial(mu.double().numpy())
    n_before = 0

    def report(step: int, _error: float, embedding: np.ndarray) -> None:
        progress(n_before + step, N_TSNE_STEPS, torch.from_numpy(np.array(embedding, dtype=np.float32)))

    for n_steps, exaggeration in TSNE_PHASES:
        points.optimize(n_steps, exaggeration=exaggeration, inplace=True, callbacks=report, callbacks_every_iters=10)
        n_before += n_steps  # openTSNE counts anew in each phase
    return torch.from_numpy(np.array(points, dtype=np.float32))


def compute_umap(mu: Tensor, seed: int = 0) -> Tensor:
    """A UMAP of mu (N, D) -> (N, 2), the same for the same seed.

    Source: McInnes, Healy & Melville, arXiv:1802.03426; their package umap-learn, which has to be installed.

    Raises ValueError if it is not, or if there are too few codes for a graph of neighbours.
    """
    try:
        from umap import UMAP  # here: it is optional, and takes seconds to import
    except ImportError as error:
        raise ValueError("it needs the package umap-learn; install it with `pip install umap-learn`") from error
    if len(mu) < 4:
        raise ValueError(f"{len(mu)} codes have no neighbourhoods to keep; it needs at least 4")
    method = UMAP(n_neighbors=min(15, len(mu) - 1), random_state=seed, n_jobs=1)
    return torch.from_numpy(np.ascontiguousarray(method.fit_transform(mu.numpy()), dtype=np.float32))


def compute_embedding(kind: str, mu: Tensor, progress: Callable[[int, int, Tensor], None] = lambda *_: None) -> Tensor:
    """A t-SNE or UMAP of mu (N, D) -> (N, 2), by `kind`; codes that are no numbers get NaN.

    progress is called with steps so far, steps in all, and where the points lie, (N, 2); UMAP never calls it.
    """
    finite = mu.isfinite().all(1)

    def in_place(points: Tensor) -> Tensor:
        return torch.full((len(mu), 2), torch.nan).index_put((finite,), points)

    if kind == "umap":
        return in_place(compute_umap(mu[finite]))
    return in_place(compute_tsne(mu[finite], progress=lambda i, n, points: progress(i, n, in_place(points))))


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
    """Indices of the n codes nearest to z, nearest first, and their Euclidean distances. mu: (N, D), z: (D,).

    Codes that are no numbers are no neighbours.
    """
    squares = (mu - z).square().sum(1).nan_to_num(torch.inf)
    squares, indices = squares.topk(min(n, int(squares.isfinite().sum())), largest=False)
    return indices, squares.sqrt()
