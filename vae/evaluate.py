"""Held-out figures: ELBO, importance-weighted likelihood, what the code holds, how good pictures are.

Nats where not said otherwise: sums over pixels and latent dimensions, means over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae.config import TrainConfig, has_prior
from vae.data import Images, corrupt, shape_factors, to_float
from vae.latent import encode_images
from vae.model import VAE
from vae.objectives import kl_per_dim, log_importance_weights, optimal_sigma
from vae.prior import own_prior
from vae.train import evaluating, held_out_elbo

ACTIVE_UNIT_VARIANCE = 0.01  # Burda et al., arXiv:1509.00519, section 5
N_NEIGHBOURS = 5
N_PROBED = 10_000  # training images at most behind the probe
N_SILHOUETTE = 2500  # held-out images at most behind the silhouette
N_MARGINAL = 1000  # images whose z stand for the aggregate posterior
N_COMPARED = 5000  # samples at most behind the Fréchet distance
N_COMPONENTS = 50  # principal components that it is measured in
N_BINS = 20  # of each dimension, for MIG
SSIM_WINDOW = 7


@dataclass(frozen=True)
class Evaluation:
    """None for a figure that the model or its data has not."""

    n_images: int
    elbo: float | None  # -(recon_loss + kl), one z for each image
    recon_loss: float
    kl: float | None
    bits_per_dim: float | None  # -elbo in bits, for each number of an image
    nll: float | None  # -log p(x), estimated by importance sampling; None if not asked for
    nll_bits_per_dim: float | None
    nll_stderr: float | None  # standard error of nll over the images
    n_importance_samples: int
    active_units: int  # latent dimensions in use
    active_dims: list[bool]  # which, see `active_dims`
    kl_per_dim: list[float] | None
    mutual_information: float | None  # of image and z under q; at most log n_images
    marginal_kl: float | None  # KL(q(z) || p(z)), q(z) the mean of all posteriors: kl - mutual_information
    mse: float  # of decode(mu), mean over pixels in [0, 1]
    ssim: float  # of decode(mu), -1 to 1; 1 is the same picture
    sigma: float | None  # of a Gaussian or Laplace likelihood, fixed or learned, in pixel units
    optimal_sigma: float | None  # Gaussian: under which the images would be likeliest, given decode(mu)
    knn_accuracy: float  # share of images whose 5 nearest training codes (mu, or its symbols) vote for their class
    probe_accuracy: float  # of a logistic regression from the code to the class
    silhouette: float  # of the classes in the code, -1 to 1
    sample_distance: float  # of samples from held-out images, see `frechet_distance`; 0 is best
    label_accuracy: float | None  # of the model's own classifier
    denoising_gain: float | None  # dB of peak signal-to-noise ratio that the model adds to a corrupted image
    anomaly_auc: float | None  # of -ELBO (without one: recon_loss), for the class that was left out of training
    symbol_usage: list[float] | None  # of the codebook: the share of each symbol in the codes of all held-out images
    symbols_in_use: int | None  # those whose share is not 0
    symbol_perplexity: float | None  # as many symbols, each used as often, would tell as much
    mig: float | None  # mutual information gap, 0 to 1; where the data's factors are known
    disentanglement: float | None  # DCI's, 0 to 1, as are the next two
    completeness: float | None
    informativeness: float | None


# Likelihood


@torch.inference_mode()
def importance_weighted_nll(
    model: VAE, images: Tensor, n_samples: int, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    """-log p(x) of each image in nats, (N,), estimated with z ~ q(z|x).

    log p(x) ~ logsumexp_k [log p(x|z_k) + log p(z_k) - log q(z_k|x)] - log K: too low on average, tighter with K.
    images: uint8 (N, C, H, W), labels (N,) where the model is told them. Source: Burda et al., arXiv:1509.00519,
    equation 8.
    """
    generator = torch.Generator().manual_seed(seed)
    x = to_float(images)
    y = labels if model.config.labels == "given" else None
    mu, logvar = model.encode(x, y)
    total = torch.full((len(x),), -torch.inf)
    for start in range(0, n_samples, 100):
        eps = torch.randn(min(100, n_samples - start), *mu.shape, generator=generator)
        part = torch.logsumexp(log_importance_weights(model, x, mu, logvar, eps, y), 0)
        total = torch.logaddexp(total, part)
    return math.log(n_samples) - total


def estimate_nll(
    model: VAE,
    images: Tensor,
    n_samples: int,
    seed: int = 0,
    labels: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[float, float]:
    """-log p(x), mean over images, and its standard error over them; progress: images done, images in all."""
    parts, n_done = [], 0
    for i, batch in enumerate(images.split(100)):
        y = None if labels is None else labels[n_done : n_done + len(batch)]
        parts.append(importance_weighted_nll(model, batch, n_samples, seed + i, y))
        n_done += len(batch)
        progress(n_done, len(images))
    values = torch.cat(parts).double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


# What the code holds


def active_dims(mu: Tensor, has_prior: bool = True) -> Tensor:
    """Whether mu varies from image to image in each latent dimension; the others have collapsed to the prior.

    Its variance must be above 0.01, the prior's being 1; without a prior, above a hundredth of the greatest one.
    mu: (N, D). Returns (D,) bool. Source: Burda et al., arXiv:1509.00519, section 5.
    """
    variance = mu.var(0)
    return variance > ACTIVE_UNIT_VARIANCE * (1.0 if has_prior else variance.max())


def active_units(mu: Tensor, has_prior: bool = True) -> int:
    """How many latent dimensions are in use. mu: (N, D)."""
    return int(active_dims(mu, has_prior).sum())


@torch.inference_mode()
def mutual_information(mu: Tensor, logvar: Tensor, seed: int = 0) -> float:
    """Of the images and z, in nats: the mean of log q(z|x) - log q(z), where q(z) is the mean of all N posteriors.

    From one z of each of N_MARGINAL images; mu, logvar: (N, D). At most log N, which it reaches where no two posteriors
    overlap: then more images would tell more. The rest of the mean KL(q(z|x) || p(z)) is KL(q(z) || p(z)).
    Source: Hoffman & Johnson 2016, ELBO surgery.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(mu), generator=generator)[:N_MARGINAL]
    eps = torch.randn(len(chosen), mu.shape[1], generator=generator).double()
    mu, logvar = mu.double(), logvar.double()
    z = mu[chosen] + torch.exp(0.5 * logvar[chosen]) * eps
    own = -0.5 * (logvar[chosen] + eps.square()).sum(1)  # log q(z|x), without the constant of the normal density
    precision = torch.exp(-logvar)
    offset = -0.5 * (logvar + mu.square() * precision).sum(1)  # of log q(z|x_n), (N,)
    parts = []
    for some in z.split(100):
        log_q = offset - 0.5 * some.square() @ precision.T + some @ (mu * precision).T
        parts.append(torch.logsumexp(log_q, 1) - math.log(len(mu)))
    return float((own - torch.cat(parts)).mean())


def knn_accuracy(train_mu: Tensor, train_labels: Tensor, mu: Tensor, labels: Tensor) -> float:
    """Share of codes mu (N, D) that the majority of their 5 nearest training codes gives the right class, 0 to 1."""
    from sklearn.neighbors import KNeighborsClassifier  # here: a second of import that only evaluation needs

    classifier = KNeighborsClassifier(n_neighbors=min(N_NEIGHBOURS, len(train_mu)))
    classifier.fit(train_mu.numpy(), train_labels.numpy())
    return float(classifier.score(mu.numpy(), labels.numpy()))


def probe_accuracy(train_mu: Tensor, train_labels: Tensor, mu: Tensor, labels: Tensor) -> float:
    """Share of codes mu (N, D) whose class a logistic regression on N_PROBED training codes tells, 0 to 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    probe.fit(train_mu[:N_PROBED].numpy(), train_labels[:N_PROBED].numpy())
    return float(probe.score(mu.numpy(), labels.numpy()))


def silhouette(mu: Tensor, labels: Tensor) -> float:
    """How much nearer codes lie to their own class than to the next, mean over N_SILHOUETTE of them, -1 to 1.

    Source: Rousseeuw 1987."""
    from sklearn.metrics import silhouette_score

    some = slice(N_SILHOUETTE)
    return float(silhouette_score(mu[some].numpy(), labels[some].numpy()))


@torch.inference_mode()
def symbol_usage(model: VAE, mu: Tensor) -> list[float] | None:
    """The share of each of a codebook's symbols in the codes mu (N, D), n_symbols numbers that sum to 1; None where
    there is no codebook."""
    if model.config.latent != "codebook":
        return None
    counts = model.codebook.symbols(mu).flatten().bincount(minlength=model.config.n_symbols)
    return (counts / counts.sum()).tolist()


def perplexity(shares: Sequence[float]) -> float:
    """e to the entropy of shares that sum to 1: their number where they are equal, else less."""
    return math.exp(-sum(share * math.log(share) for share in shares if share))


def mutual_information_gap(mu: Tensor, factors: np.ndarray) -> float:
    """Mean over factors of how much more the dimension that knows most of a factor knows than the next, as a share of
    the factor's entropy; 0 to 1. mu: (N, D), D > 1; factors: (N, F) integers. Source: Chen et al., arXiv:1802.04942.
    """
    from sklearn.metrics import mutual_info_score

    edges = [np.histogram_bin_edges(column, N_BINS)[1:-1] for column in mu.T.numpy()]
    binned = [np.digitize(column, edge) for column, edge in zip(mu.T.numpy(), edges, strict=True)]
    gaps = []
    for factor in factors.T:
        known = sorted(mutual_info_score(factor, column) for column in binned)
        gaps.append((known[-1] - known[-2]) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def dci(train_mu: Tensor, train_factors: np.ndarray, mu: Tensor, factors: np.ndarray) -> tuple[float, float, float]:
    """Disentanglement, completeness, informativeness, 0 to 1: from the importances of a random forest for each factor.

    Source: Eastwood & Williams 2018. Informativeness is the held-out accuracy.
    """
    from sklearn.ensemble import RandomForestClassifier

    importances, scores = [], []
    for factor, held_out in zip(train_factors.T, factors.T, strict=True):
        forest = RandomForestClassifier(30, max_depth=10, max_features=None, random_state=0).fit(
            train_mu.numpy(), factor
        )
        importances.append(forest.feature_importances_)
        scores.append(forest.score(mu.numpy(), held_out))
    table = np.array(importances).T + 1e-12  # (D, F)

    def focus(rows: np.ndarray) -> np.ndarray:
        shares = rows / rows.sum(1, keepdims=True)
        return 1 + (shares * np.log(shares)).sum(1) / math.log(rows.shape[1])

    weights = table.sum(1) / table.sum()
    return float(weights @ focus(table)), float(focus(table.T).mean()), float(np.mean(scores))


# Pictures


@torch.inference_mode()
def reconstructions(model: VAE, mu: Tensor, labels: Tensor | None = None) -> Tensor:
    """decode(mu), (N, C, H, W) in [0, 1]."""
    y = labels if model.config.labels == "given" else None
    return torch.cat([
        model.recon(codes, None if y is None else y[500 * i : 500 * (i + 1)]) for i, codes in enumerate(mu.split(500))
    ])  # fmt: skip


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity, mean over pixels, channels and images, -1 to 1; a, b: (N, C, H, W) in [0, 1].

    Windows of SSIM_WINDOW² pixels of equal weight, unbiased variances. Source: Wang et al. 2004.
    """
    n = SSIM_WINDOW**2

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, SSIM_WINDOW, 1)

    mean_a, mean_b, share = mean(a), mean(b), n / (n - 1)
    var_a, var_b = share * (mean(a * a) - mean_a**2), share * (mean(b * b) - mean_b**2)
    covariance = share * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((values / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def frechet_distance(samples: Tensor, images: Tensor) -> float:
    """Fréchet distance between two sets of images, (N, C, H, W) in [0, 1], as Gaussians in the first N_COMPONENTS
    principal components of the second.

    It needs no network. Its limits: it sees pixels, not what they mean; a blur that keeps mean and covariance costs
    nothing; and a model that repeats its training images is not caught. Source: Dowson & Landau 1982.
    """
    a, b = samples.flatten(1).double(), images.flatten(1).double()
    centre = b.mean(0)
    _, _, directions = torch.linalg.svd(b - centre, full_matrices=False)
    axes = directions[:N_COMPONENTS].T
    a, b = (a - centre) @ axes, (b - centre) @ axes
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The trace of (cov_a cov_b)^(1/2). Along its own axes cov_b is diagonal, so its root r is, and the eigenvalues of
    # r cov_a r are the same; but that is symmetric, and can be solved even where pictures are all alike.
    root_b = cov_b.diagonal().clamp_min(0).sqrt()
    roots = torch.linalg.eigvalsh(root_b[:, None] * cov_a * root_b).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots)


@torch.inference_mode()
def denoising_gain(model: VAE, images: Tensor, config: TrainConfig, labels: Tensor | None = None) -> float | None:
    """How many dB nearer to the clean images (in mean squared error) the reconstructions of corrupted ones are than
    these are themselves; None if too little is corrupted to be seen. images: uint8 (N, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    before = after = 0.0
    y = labels if model.config.labels == "given" else None
    for i, batch in enumerate(images.split(500)):
        x = to_float(batch)
        seen = corrupt(x, config.corruption, config.corruption_level, generator)
        given = None if y is None else y[500 * i : 500 * (i + 1)]
        before += (seen - x).square().sum().item()
        after += (model.recon(model.encode(seen, given)[0], given) - x).square().sum().item()
    return 10 * math.log10(before / after) if before and after else None


@torch.inference_mode()
def anomaly_scores(model: VAE, images: Tensor, labels: Tensor | None = None, n_samples: int = 10) -> Tensor:
    """How little a model expects each image: -ELBO with n_samples z, or recon_loss where it has no KL; (N,) nats."""
    generator = torch.Generator().manual_seed(0)
    y = labels if model.config.labels == "given" else None
    parts = []
    for i, batch in enumerate(images.split(500)):
        x, given = to_float(batch), None if y is None else y[500 * i : 500 * (i + 1)]
        mu, logvar = model.encode(x, given)
        has_kl = model.config.latent == "gaussian"
        score = kl_per_dim(mu, logvar).sum(1) if has_kl else torch.zeros(len(x))
        n = n_samples if has_kl else 1
        for _ in range(n):
            score += model.recon_loss(model.decode(model.sample_z(mu, logvar, generator), given), x) / n
        parts.append(score)
    return torch.cat(parts)


def evaluate(
    model: VAE,
    config: TrainConfig,
    train: Images,
    held_out: Images,
    n_importance_samples: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """All figures of a model on the CPU. progress is called with held-out images done, images in all.

    Samples are of `prior.own_prior`, fitted to the training codes where the model has none.
    """
    is_variational, n_numbers = model.config.latent == "gaussian", math.prod(model.config.image_shape)
    with evaluating(model):
        mu, logvar = encode_images(model, held_out.images, held_out.labels)
        train_mu, train_logvar = encode_images(model, train.images, train.labels)
        codes, train_codes = (model.decoder_input(each) for each in (mu, train_mu))
        terms = held_out_elbo(model, held_out.images, held_out.labels, seed)
        x, recon = to_float(held_out.images), reconstructions(model, mu, held_out.labels)
        nll = stderr = None
        if n_importance_samples and is_variational:
            nll, stderr = estimate_nll(model, held_out.images, n_importance_samples, seed, held_out.labels, progress)
        prior = own_prior(model, config, train_mu, train_logvar)
        generator = torch.Generator().manual_seed(seed)
        n_compared = min(N_COMPARED, len(x))
        given = held_out.labels[:n_compared]
        samples = reconstructions(model, prior.sample(n_compared, generator), given)
        if config.targets != "grey":
            samples = torch.bernoulli(samples, generator=generator)  # black and white, as the images are
        kls = kl_per_dim(mu, logvar).mean(0) if is_variational else None
        known = mutual_information(mu, logvar, seed) if is_variational else None
        factors = _factors(config)
        if mu.shape[1] == 1:
            factors = None  # one dimension can't tell factors apart
        disentangled = dci(train_codes, factors[0], codes, factors[1]) if factors else (None, None, None)
        in_use = active_dims(codes, has_prior(model.config, config)).tolist()
        denoises, usage = config.corruption != "none", symbol_usage(model, mu)
        gain = denoising_gain(model, held_out.images, config, held_out.labels) if denoises else None
        auc = _anomaly_auc(model, config, held_out)
    return Evaluation(
        n_images=len(x),
        elbo=-terms.loss if is_variational else None,
        recon_loss=terms.recon_loss,
        kl=terms.kl,
        bits_per_dim=terms.loss / n_numbers / math.log(2) if is_variational else None,
        nll=nll,
        nll_bits_per_dim=None if nll is None else nll / n_numbers / math.log(2),
        nll_stderr=stderr,
        n_importance_samples=n_importance_samples if is_variational else 0,
        active_units=sum(in_use),
        active_dims=in_use,
        kl_per_dim=None if kls is None else kls.tolist(),
        mutual_information=known,
        marginal_kl=None if kls is None or known is None else float(kls.sum()) - known,
        mse=float((recon - x).square().mean()),
        ssim=ssim(recon, x),
        sigma=_sigma(model),
        optimal_sigma=optimal_sigma(recon, x) if _sigma(model) and model.config.likelihood == "gaussian" else None,
        knn_accuracy=knn_accuracy(train_codes, train.labels, codes, held_out.labels),
        probe_accuracy=probe_accuracy(train_codes, train.labels, codes, held_out.labels),
        silhouette=silhouette(codes, held_out.labels),
        sample_distance=frechet_distance(samples, x),
        label_accuracy=_label_accuracy(model, mu, held_out.labels),
        denoising_gain=gain,
        anomaly_auc=auc,
        symbol_usage=usage,
        symbols_in_use=None if usage is None else sum(share > 0 for share in usage),
        symbol_perplexity=None if usage is None else perplexity(usage),
        mig=mutual_information_gap(codes, factors[1]) if factors else None,
        disentanglement=disentangled[0],
        completeness=disentangled[1],
        informativeness=disentangled[2],
    )


def _factors(config: TrainConfig) -> tuple[np.ndarray, np.ndarray] | None:
    """The known factors of the images trained on and of the held-out ones, (N, F) each, as integers; None if there are
    none."""
    if config.dataset != "shapes":
        return None
    train = shape_factors("train")
    return train[train[:, 0] != config.left_out_class].numpy(), shape_factors("held_out").numpy()


def _sigma(model: VAE) -> float | None:
    if not model.config.has_scale or model.config.scale == "per_pixel":
        return None
    return model.learned_sigma.item() if model.config.scale == "learned" else model.config.sigma


@torch.inference_mode()
def _label_accuracy(model: VAE, mu: Tensor, labels: Tensor) -> float | None:
    if model.config.labels != "predicted":
        return None
    return float((model.class_logits(mu).argmax(1) == labels).float().mean())


def _anomaly_auc(model: VAE, config: TrainConfig, held_out: Images) -> float | None:
    from sklearn.metrics import roc_auc_score

    if config.left_out_class < 0 or model.config.labels == "given":
        return None
    scores = anomaly_scores(model, held_out.images)
    return float(roc_auc_score((held_out.labels == config.left_out_class).numpy(), scores.numpy()))
