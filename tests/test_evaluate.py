"""Held-out figures against numerical integration, hand counts and NumPy."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.ndimage
import scipy.spatial
import scipy.special
import scipy.stats
import torch

from tests.test_runs import wait_until
from vae import VAE, ModelConfig, TrainConfig, data
from vae.checkpoint import load_model, read_metrics
from vae.config import ConfigError
from vae.data import Images
from vae.evaluate import (
    active_units,
    dci,
    denoising_gain,
    evaluate,
    frechet_distance,
    importance_weighted_nll,
    knn_accuracy,
    mutual_information,
    mutual_information_gap,
    probe_accuracy,
    reconstructions,
    silhouette,
    ssim,
)
from vae.evaluations import evaluation_status, keep_figures, measure, read_figures, start_evaluation
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


def test_nll_is_that_of_probabilistic_pca():
    """A linear decoder with Gaussian noise has a likelihood in closed form: N(x | b, W W^T + sigma^2 I)."""
    generator = torch.Generator().manual_seed(0)
    model = VAE(ModelConfig((1, 4, 4), widths=(), latent_dim=2, likelihood="gaussian", sigma=0.3)).requires_grad_(False)
    model.mean_image = lambda logits: logits
    decoder, encoder = model.decoder[0], model.encoder[1]
    decoder.weight.copy_(0.3 * torch.randn(16, 2, generator=generator))
    decoder.bias.copy_(torch.rand(16, generator=generator))
    images = torch.randint(0, 256, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    # The posterior is linear too: N(M^-1 W^T (x - b), sigma^2 M^-1), M = W^T W + sigma^2 I; the encoder's is wider.
    weight, sigma = decoder.weight, model.config.sigma
    inverse = torch.linalg.inv(weight.T @ weight + sigma**2 * torch.eye(2))
    to_mean = inverse @ weight.T
    encoder.weight.copy_(torch.cat([to_mean, torch.zeros(2, 16)]))
    encoder.bias.copy_(torch.cat([-to_mean @ decoder.bias, (2 * sigma**2 * inverse.diagonal()).log()]))
    covariance = weight @ weight.T + sigma**2 * torch.eye(16)
    judge = torch.distributions.MultivariateNormal(decoder.bias, covariance)
    exact = -judge.log_prob(images.flatten(1) / 255)
    draws = torch.stack([importance_weighted_nll(model, images, 200, seed) for seed in range(30)])
    # Of p(x) itself the estimate is unbiased.
    ratio = torch.exp(exact - draws)
    z_score = (ratio.mean(0) - 1) / (ratio.std(0) / 30**0.5)
    assert (z_score.abs() < 3).float().mean() >= 0.975  # of 40 images, one may be beyond
    assert abs(ratio.mean() - 1) < 3 * ratio.mean(1).std() / 30**0.5


def test_equal_posteriors_tell_nothing_of_the_image():
    mu, logvar = torch.full((300, 3), 0.7), torch.full((300, 3), -1.0)
    assert mutual_information(mu, logvar) == pytest.approx(0, abs=1e-9)


def test_two_groups_of_codes_far_apart_tell_one_bit():
    mu = torch.tensor([[-20.0], [20.0]]).repeat(100, 1)
    assert mutual_information(mu, torch.zeros_like(mu)) == pytest.approx(math.log(2), abs=1e-6)


def test_codes_that_never_overlap_tell_which_image_it_was_and_no_more():
    mu = 100 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert mutual_information(mu, torch.full_like(mu, -9.0)) == pytest.approx(math.log(200), abs=1e-4)


def test_mutual_information_of_gaussians_is_theirs():
    """With mu ~ N(0, 3) and z ~ N(mu, 1), I = log sqrt(1 + 3), but for the images being finitely many."""
    mu = math.sqrt(3) * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    known = [mutual_information(mu, torch.zeros_like(mu), seed) for seed in range(10)]
    assert np.mean(known) == pytest.approx(math.log(2), abs=3 * np.std(known) / 10**0.5 + 0.005)


def test_ssim_is_wangs():
    """Written again with SciPy's window."""
    a = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    b = (a + 0.2 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert ssim(a, a) == pytest.approx(1)
    values = []
    for x, y in zip(a[:, 0].double().numpy(), b[:, 0].double().numpy(), strict=True):
        mean = lambda image: scipy.ndimage.uniform_filter(image, 7)[3:-3, 3:-3]  # noqa: E731
        share = 49 / 48
        var_x, var_y = share * (mean(x * x) - mean(x) ** 2), share * (mean(y * y) - mean(y) ** 2)
        cov = share * (mean(x * y) - mean(x) * mean(y))
        top = (2 * mean(x) * mean(y) + 1e-4) * (2 * cov + 9e-4)
        values.append(top / ((mean(x) ** 2 + mean(y) ** 2 + 1e-4) * (var_x + var_y + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-5)


def test_the_frechet_distance_is_that_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(200, 1, 4, 4, generator=generator) ** 2, torch.rand(300, 1, 4, 4, generator=generator)
    x, y = a.flatten(1).double().numpy(), b.flatten(1).double().numpy()
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, b) == pytest.approx(0, abs=1e-6)


def test_a_code_that_is_the_factors_is_disentangled():
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(0, 4, (800, 3), generator=generator)
    noise = 0.05 * torch.randn(800, 3, generator=generator)
    code = factors.float() + noise
    turned = code @ torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    assert mutual_information_gap(code, factors.numpy()) > 0.9
    assert mutual_information_gap(turned, factors.numpy()) < 0.5
    straight = dci(code[:400], factors[:400].numpy(), code[400:], factors[400:].numpy())
    mixed = dci(turned[:400], factors[:400].numpy(), turned[400:], factors[400:].numpy())
    assert min(straight) > 0.9
    assert mixed[0] < straight[0]


def test_the_probe_and_the_silhouette_know_clusters():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    apart = torch.randn(3, 4, generator=generator)[labels] * 20 + torch.randn(300, 4, generator=generator)
    assert probe_accuracy(apart, labels, apart, labels) == 1
    assert silhouette(apart, labels) > 0.7
    assert silhouette(torch.randn(300, 4, generator=generator), labels) < 0.1


def test_the_denoising_gain_is_in_decibels():
    """A model that gives a tenth of the error: 20 dB."""
    config = TrainConfig("digits", corruption="gaussian", corruption_level=0.1)
    images = torch.full((20, 1, 8, 8), 128, dtype=torch.uint8)
    model = VAE(ModelConfig((1, 8, 8), latent_dim=64, widths=(), latent="point"))
    model.encode = lambda x, _: (x.flatten(1), None)
    model.recon = lambda z, _: 128 / 255 + 0.1 * (z.view(-1, 1, 8, 8) - 128 / 255)
    assert denoising_gain(model, images, config) == pytest.approx(20, abs=1e-3)
    unseen = TrainConfig("digits", corruption="masking", corruption_level=1e-9)
    assert denoising_gain(model, images, unseen) is None  # nothing is corrupted, so nothing can be gained


# In a process of its own


def test_figures_are_measured_in_the_background_and_kept(small):
    start_evaluation(small.name, 2)
    wait_until(lambda: not evaluation_status(small.name) or evaluation_status(small.name).state == "failed")
    assert evaluation_status(small.name) is None
    figures = read_figures(small.name)
    assert figures["nll"] == measure(small.name, 2)["nll"]
    assert figures["n_importance_samples"] == 2
    weights = small / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert read_figures(small.name) is None  # of other weights


def test_figures_of_an_earlier_version_are_not_shown(small):
    keep_figures(small.name, figures := measure(small.name, 0))
    assert read_figures(small.name) == figures
    keep_figures(small.name, {name: value for name, value in figures.items() if name != "ssim"})
    assert read_figures(small.name) is None


def test_what_cannot_be_measured_is_said(small):
    with pytest.raises(ConfigError, match="importance-samples"):
        start_evaluation(small.name, -1)
    (small / "model.safetensors").write_bytes(b"no weights")
    start_evaluation(small.name, 2)
    wait_until(lambda: (job := evaluation_status(small.name)) and job.state == "failed")
    assert "can't be opened" in evaluation_status(small.name).message
