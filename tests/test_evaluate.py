"""Held-out figures against numerical integration, hand counts and NumPy."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.spatial
import scipy.special
import scipy.stats
import torch

from vae import VAE, ModelConfig, TrainConfig, data
from vae.checkpoint import load_model, read_metrics
from vae.data import Images
from vae.evaluate import (
    active_units,
    evaluate,
    importance_weighted_nll,
    knn_accuracy,
    reconstructions,
)
from vae.latent import encode_images
from vae.train import held_out_elbo


def tiny_model(likelihood: str) -> VAE:
    """4 x 4 pixels and one latent dimension, so that p(x) is an integral over a line."""
    model = VAE(ModelConfig((1, 4, 4), widths=(6,), latent_dim=1, likelihood=likelihood, sigma=0.5))
    model.init_weights(torch.full((1, 4, 4), 0.4), torch.Generator().manual_seed(1))
    # A decoder that says much about z, and a posterior that is near, but not the true one.
    model.decoder[-2].weight.data.mul_(4)
    return model.double().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def exact_nll(model: VAE, image: torch.Tensor) -> float:
    """-log of the integral of p(x|z) p(z) over z, with SciPy's quadrature and densities."""
    x = image.double().numpy().ravel() / 255

    @torch.inference_mode()
    def joint(z: float) -> float:
        logits = model.decode(torch.tensor([[z]], dtype=torch.float64)).numpy().ravel()
        if model.config.likelihood == "gaussian":
            log_likelihood = scipy.stats.norm(scipy.special.expit(logits), model.config.sigma).logpdf(x).sum()
        else:
            log_likelihood = (x * scipy.special.log_expit(logits) + (1 - x) * scipy.special.log_expit(-logits)).sum()
        return math.exp(log_likelihood) * scipy.stats.norm.pdf(z)

    return -math.log(scipy.integrate.quad(joint, -8, 8, epsrel=1e-8)[0])


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_nll_is_the_integral(images, likelihood, monkeypatch):
    model = tiny_model(likelihood)
    monkeypatch.setattr("vae.evaluate.to_float", lambda batch: batch.double() / 255)
    exact = [exact_nll(model, image) for image in images]
    assert importance_weighted_nll(model, images, 6000).tolist() == pytest.approx(exact, abs=0.02)


def test_nll_is_a_bound_that_tightens_with_its_samples(small):
    """One sample gives -ELBO on average; more come down towards -log p(x)."""
    model, held_out = load_model(small), data.load("digits", "held_out").images
    bounds = [importance_weighted_nll(model, held_out, k).mean().item() for k in (1, 10, 100)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(-read_metrics(small).elbo, abs=0.2)


def test_nll_is_the_same_for_the_same_seed(small):
    model, held_out = load_model(small), data.load("digits", "held_out").images[:20]
    assert torch.equal(
        importance_weighted_nll(model, held_out, 5, seed=3), importance_weighted_nll(model, held_out, 5, 3)
    )
    assert not torch.equal(
        importance_weighted_nll(model, held_out, 5, 3), importance_weighted_nll(model, held_out, 5, 4)
    )


def test_active_units_vary_more_than_a_hundredth():
    mu = torch.zeros(1000, 4)
    for dimension, variance in enumerate((0.0, 0.009, 0.011, 4.0)):
        column = torch.randn(1000)
        mu[:, dimension] = 5 + (column - column.mean()) / column.std() * variance**0.5
    assert active_units(mu) == 2


def test_knn_accuracy_by_hand():
    train_mu = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4], [10.0], [10.1], [10.2], [10.3], [10.4]])
    train_labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    mu = torch.tensor([[0.2], [10.2], [-5.0], [20.0]])  # 3 of 5 say 0, 1, 0, 1
    assert knn_accuracy(train_mu, train_labels, mu, torch.tensor([0, 1, 0, 1])) == 1
    assert knn_accuracy(train_mu, train_labels, mu, torch.tensor([0, 0, 0, 1])) == 0.75


def test_knn_accuracy_by_distances():
    train_mu, mu = torch.randn(200, 3), torch.randn(50, 3)
    train_labels, labels = (train_mu[:, 0] > 0).long(), (mu[:, 0] > 0).long()
    nearest = np.argsort(scipy.spatial.distance.cdist(mu, train_mu), axis=1)[:, :5]
    votes = train_labels.numpy()[nearest].sum(1) > 2
    assert knn_accuracy(train_mu, train_labels, mu, labels) == pytest.approx(
        (votes == labels.numpy().astype(bool)).mean()
    )


def test_mse_is_the_mean_over_all_pixels(small):
    model, held_out = load_model(small), data.load("digits", "held_out").images
    images = torch.cat([held_out, held_out, held_out])[:777]  # more than one batch, the last one smaller
    mu, _ = encode_images(model, images)
    expected = np.mean((model.recon(mu).numpy() - images.numpy() / 255) ** 2)
    assert float((reconstructions(model, mu) - images / 255).square().mean()) == pytest.approx(expected, rel=1e-5)


def test_all_figures_of_a_model(small):
    model = load_model(small)
    train, held_out = (data.load("digits", split) for split in data.SPLITS)
    seen: list[tuple[int, int]] = []
    result = evaluate(
        model,
        TrainConfig("digits"),
        train,
        held_out,
        10,
        seed=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(100, 300), (200, 300), (300, 300)]
    terms = held_out_elbo(model, held_out.images, seed=1)
    assert (result.elbo, result.recon_loss, result.kl) == (-terms.loss, terms.recon_loss, terms.kl)
    batches = held_out.images.split(100)
    nll = torch.cat([importance_weighted_nll(model, batch, 10, 1 + i) for i, batch in enumerate(batches)])
    assert result.nll == pytest.approx(nll.mean().item())
    assert result.nll_stderr == pytest.approx(scipy.stats.sem(nll.double().numpy()))
    assert result.nll < -result.elbo
    assert (result.n_images, result.n_importance_samples) == (300, 10)
    assert 0 <= result.active_units <= 2
    assert 0.1 < result.knn_accuracy <= 1


def test_nll_may_be_left_out(small):
    few = Images(*(value[:20] for value in vars(data.load("digits", "held_out")).values()))
    result = evaluate(load_model(small), TrainConfig("digits"), few, few, n_importance_samples=0)
    assert result.nll is None
    assert result.nll_stderr is None
