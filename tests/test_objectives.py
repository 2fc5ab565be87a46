"""The terms of the ELBO against torch.distributions and closed forms."""

import math

import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from torch.distributions import Bernoulli, ContinuousBernoulli, Laplace, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from vae import VAE
from vae.config import ModelConfig
from vae.objectives import (
    KERNEL_SCALES,
    MAX_EXACT_JACOBIAN,
    bernoulli_nll,
    capacity_gap,
    codebook_loss,
    continuous_bernoulli_mean,
    continuous_bernoulli_nll,
    contractive_penalty,
    energy_distance,
    gaussian_nll,
    iwae_loss,
    kl_per_dim,
    l1_penalty,
    l2_penalty,
    laplace_nll,
    limit,
    log_importance_weights,
    mmd,
    optimal_sigma,
    sliced_wasserstein,
    sparsity_kl,
    total_correlation,
)
from vae.train import fast_arithmetic

SHAPE = (5, 3, 4, 6)  # (B, C, H, W), all different: a sum over the wrong axis shows


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_bernoulli_is_torchs_for_black_and_white(logits, x):
    x = x.round()
    expected = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)


def test_bernoulli_takes_grey_values_as_probabilities(logits, x):
    """The mean over black and white draws of x is the value for x itself."""
    black, white = (Bernoulli(logits=logits).log_prob(torch.full(SHAPE, colour).double()) for colour in (0.0, 1.0))
    expected = -((1 - x) * black + x * white).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)


def test_bernoulli_gradient(logits, x):
    logits.requires_grad_()
    weights = torch.arange(1.0, 6, dtype=torch.float64)  # each image its own, as when some are weighted
    expected = torch.autograd.grad(
        (binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3)) * weights).sum(), logits
    )
    torch.testing.assert_close(torch.autograd.grad((bernoulli_nll(logits, x) * weights).sum(), logits), expected)
    assert torch.autograd.gradcheck(bernoulli_nll, (logits, x))  # finite differences


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_survives_extreme_logits(dtype):
    values = [-1e30, -1e4, -104, -88, -17, -1e-30, 0, 1e-30, 17, 88, 104, 1e4, 1e30]
    logits = torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1)
    for grey in (0.0, 0.3, 1.0):
        leaf = logits.clone().requires_grad_()
        nll = bernoulli_nll(leaf, torch.full_like(logits, grey))
        nll.sum().backward()
        # log(1 + e^l) - x l, written so that it holds where e^l does not fit a float
        exact = torch.tensor([max(v, 0) + math.log1p(math.exp(-abs(v))) - grey * v for v in values], dtype=dtype)
        torch.testing.assert_close(nll.detach(), exact, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(leaf.grad, torch.sigmoid(logits) - grey, rtol=1e-6, atol=1e-7)


def test_bernoulli_leaves_its_arguments_alone(logits, x):
    before = logits.clone(), x.clone()
    x.requires_grad_()
    bernoulli_nll(logits.requires_grad_(), x).sum().backward()
    assert torch.equal(logits, before[0])
    assert torch.equal(x, before[1])
    assert x.grad is None


def test_bernoulli_does_not_mind_the_memory_format(logits, x):
    logits = logits.to(memory_format=torch.channels_last)
    torch.testing.assert_close(bernoulli_nll(logits, x), bernoulli_nll(logits.contiguous(), x))


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_is_torchs(logits, x, sigma):
    recon = torch.sigmoid(logits)
    expected = -Normal(recon, sigma).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_nll(recon, x, sigma), expected)


def test_the_likelihood_is_the_configs(logits, x):
    bernoulli, gaussian = (ModelConfig(SHAPE[1:], likelihood=name, sigma=0.2) for name in ("bernoulli", "gaussian"))
    torch.testing.assert_close(VAE(bernoulli).recon_loss(logits, x), bernoulli_nll(logits, x))
    expected = -Normal(torch.sigmoid(logits), 0.2).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(VAE(gaussian).recon_loss(logits, x), expected)


def test_kl_is_torchs():
    generator = torch.Generator().manual_seed(2)
    mu, logvar = (2 * torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = kl_divergence(Normal(mu, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_per_dim(mu, logvar), expected)
    assert torch.autograd.gradcheck(kl_per_dim, (mu.requires_grad_(), logvar.requires_grad_()))


def test_kl_of_a_nearly_collapsed_dimension_keeps_its_digits():
    """Where logvar is near 0, exp(v) - v - 1 leaves float32 noise. Judge: the first terms of its series, in float64."""
    logvar = torch.tensor([[1e-3, -1e-3, 1e-4, -1e-4]])
    v = logvar.double()
    expected = 0.5 * (v**2 / 2 + v**3 / 6 + v**4 / 24)
    torch.testing.assert_close(kl_per_dim(torch.zeros_like(v), v), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(kl_per_dim(torch.zeros_like(logvar), logvar).double(), expected, rtol=5e-3, atol=0)


def test_kl_is_never_negative():
    logvar = torch.cat([torch.linspace(-1e-2, 1e-2, 100_001), torch.linspace(-60, 60, 100_001)]).unsqueeze(1)
    assert kl_per_dim(torch.zeros_like(logvar), logvar).min() >= 0


@pytest.mark.parametrize("term", [bernoulli_nll, lambda a, b: gaussian_nll(a, b, 1.0), kl_per_dim])
def test_shapes_that_would_broadcast_are_turned_away(term):
    with pytest.raises(ValueError, match="must match"):
        term(torch.zeros(4, 1), torch.zeros(4, 3))


# Other likelihoods


def test_continuous_bernoulli_is_torchs():
    logits = torch.cat([torch.linspace(-12, 12, 201), torch.tensor([0.0, 1e-4, -1e-4, 0.099, 0.101])]).double()
    x = torch.rand(len(logits), generator=torch.Generator().manual_seed(0)).double()
    judge = ContinuousBernoulli(logits=logits, lims=(0.45, 0.55))
    nll = continuous_bernoulli_nll(logits.view(-1, 1, 1, 1), x.view(-1, 1, 1, 1))
    torch.testing.assert_close(nll, -judge.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(continuous_bernoulli_mean(logits), judge.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_the_mean_is_that_of_the_likelihood(likelihood):
    """By drawing from it."""
    model = VAE(ModelConfig((1, 4, 4), likelihood=likelihood))
    logits = torch.linspace(-6, 6, 16).view(1, 1, 4, 4)
    judge = {"bernoulli": Bernoulli, "continuous_bernoulli": ContinuousBernoulli}[likelihood](logits=logits)
    drawn = judge.sample((20_000,)).mean(0)
    torch.testing.assert_close(model.mean_image(logits), drawn, atol=0.015, rtol=0)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_laplace_is_torchs(logits, x, sigma):
    recon = torch.sigmoid(logits)
    expected = -Laplace(recon, sigma).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(laplace_nll(recon, x, sigma), expected)


@pytest.mark.parametrize(("likelihood", "judge"), [("gaussian", Normal), ("laplace", Laplace)])
def test_a_scale_of_each_pixel(logits, x, likelihood, judge):
    model = VAE(ModelConfig(SHAPE[1:], likelihood=likelihood, scale="per_pixel"))
    log_sigma = torch.linspace(-2, 1, logits.numel()).view_as(logits)
    expected = -judge(torch.sigmoid(logits), log_sigma.exp()).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(model.recon_loss(torch.cat([logits, log_sigma], 1), x), expected)
    assert model.decode(torch.zeros(3, 2)).shape == (3, 2 * SHAPE[1], *SHAPE[2:])
    assert model.recon(torch.zeros(3, 2)).shape == (3, *SHAPE[1:])


def test_the_optimal_sigma_is_where_the_learned_one_comes_to_rest(logits, x):
    model = VAE(ModelConfig(SHAPE[1:], likelihood="gaussian", scale="learned"))
    loss = model.recon_loss(logits, x).sum()
    optimum = optimal_sigma(torch.sigmoid(logits), x)
    model.log_sigma.data.fill_(math.log(optimum))
    (slope,) = torch.autograd.grad(model.recon_loss(logits, x).sum(), model.log_sigma)
    assert abs(slope) < 1e-3 * x.numel()
    assert model.recon_loss(logits, x).sum() < loss


def test_what_is_beyond_a_limit_can_come_back():
    x = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    out = limit(x, -1, 1)
    assert out.tolist() == [-1, -1, 0.5, 1, 1]
    out.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))  # a step goes against it
    assert x.grad.tolist() == [0, -1, 1, 1, 0]


# Other divergences


def test_the_capacity_is_of_the_mean_kl():
    kl = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert capacity_gap(kl, 7.0) == 2
    assert capacity_gap(kl, 4.0) == 1


def test_l1_and_l2_are_sums_over_the_code():
    code = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert l1_penalty(code).tolist() == [3, 3]
    assert l2_penalty(code).tolist() == [5, 9]


def test_total_correlation_is_chens():
    generator = torch.Generator().manual_seed(0)
    mu, logvar, z = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = 0.0
    for i in range(6):  # log q(z_i) and each log q(z_id), with weights 1 / B
        densities = torch.stack([Normal(mu[j], torch.exp(0.5 * logvar[j])).log_prob(z[i]) for j in range(6)])
        joint = densities.sum(1).exp().sum() / 6
        product = (densities.exp().sum(0) / 6).prod()
        expected += (joint.log() - product.log()) / 6
    torch.testing.assert_close(total_correlation(z, mu, logvar), expected)


def test_codes_that_are_all_alike_have_no_total_correlation():
    mu = torch.zeros(50, 16)
    z = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    assert total_correlation(z, mu, mu).item() == pytest.approx(0, abs=1e-4)


def test_sparsity_is_the_kl_of_two_bernoullis():
    code = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Bernoulli(0.05), Bernoulli(code.mean(0))).sum()
    torch.testing.assert_close(sparsity_kl(code, 0.05), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [{}, {"network": "conv", "channels": (4,), "widths": (8,)}])
def test_the_contractive_penalty_is_autograds(network):
    model = VAE(ModelConfig((1, 4, 4), latent="point", latent_dim=3, activation="tanh", **{"widths": (8,)} | network))
    x = torch.rand(5, 1, 4, 4, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x)[0], x)  # (B, D, B, C, H, W)
    expected = torch.stack([jacobian[i, :, i].square().sum() for i in range(5)])
    penalty = contractive_penalty(model.encode(x)[0], x, torch.Generator())
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=1e-5)
    penalty.sum().backward()
    assert all(weight.grad is not None for weight in model.encoder[1:-1].parameters())


def test_of_a_large_code_the_contractive_penalty_is_right_on_average():
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    code = (x.flatten(1) @ weight).expand(1, -1)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([contractive_penalty(x.flatten(1) @ weight, x, generator)[0] for _ in range(2000)])
    assert code.shape[1] > MAX_EXACT_JACOBIAN
    stderr = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - weight.square().sum()) < 4 * stderr


@pytest.mark.parametrize("kernel", ["mmd_rbf", "mmd_imq"])
def test_mmd_is_the_mean_over_pairs(kernel):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 3, generator=generator), torch.randn(5, 3, generator=generator) + 1

    def k(x, y):
        square = float((x - y).square().sum())
        sizes = [6 * scale for scale in KERNEL_SCALES]
        return sum(math.exp(-square / c) if kernel == "mmd_rbf" else c / (c + square) for c in sizes)

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    expected = sum(within) - 2 * sum(k(x, y) for x in a for y in b) / 35
    assert float(mmd(a, b, kernel)) == pytest.approx(expected, abs=1e-5)


def test_sliced_wasserstein_of_a_line_is_scipys():
    """In one dimension each direction is the line itself; its squared 2-Wasserstein distance by quantiles."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 1, generator=generator), 2 * torch.randn(50, 1, generator=generator) + 1
    cost = scipy.spatial.distance.cdist(a, b, "sqeuclidean")
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    assert float(sliced_wasserstein(a, b, generator)) == pytest.approx(cost[rows, columns].mean(), abs=1e-5)


def test_energy_distance_is_scipys():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 1, generator=generator), torch.randn(40, 1, generator=generator) + 0.5
    square = scipy.stats.energy_distance(a[:, 0], b[:, 0]) ** 2  # with each point paired with itself too
    shift = sum(scipy.spatial.distance.pdist(s).mean() / 40 for s in (a, b))
    assert float(energy_distance(a, b)) == pytest.approx(square - shift, abs=1e-5)


def test_energy_distance_is_exact_in_training():
    """Where products are of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(128, 16, generator=generator) for _ in range(2))
    within = sum(scipy.spatial.distance.pdist(s).mean() for s in (a, b))
    with fast_arithmetic():
        assert float(energy_distance(a, b)) == pytest.approx(
            2 * scipy.spatial.distance.cdist(a, b).mean() - within, abs=1e-5
        )


def test_the_codebook_loss_moves_the_vectors_and_commits_the_code():
    code, nearest = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    loss = codebook_loss(code, nearest)
    torch.testing.assert_close(loss, 1.25 * (code - nearest).square().sum(1))
    loss.sum().backward()
    torch.testing.assert_close(nearest.grad, 2 * (nearest - code).detach())
    torch.testing.assert_close(code.grad, 0.5 * (code - nearest).detach())


# The importance-weighted bound


@pytest.fixture
def tiny():
    model = VAE(ModelConfig((1, 4, 4), widths=(8,), latent_dim=2))
    model.init_weights(torch.full((1, 4, 4), 0.3), torch.Generator().manual_seed(0))
    x = (torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return model, x


def test_the_bound_is_the_papers(tiny):
    """Equation 8, written with torch's densities."""
    model, x = tiny
    mu, logvar = model.encode(x)
    loss = iwae_loss(model, x, mu, logvar, 7, torch.Generator().manual_seed(5))
    eps = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(5))
    q = Normal(mu, torch.exp(0.5 * logvar))
    z = mu + torch.exp(0.5 * logvar) * eps
    log_weights = torch.stack([
        Bernoulli(logits=model.decode(part)).log_prob(x).sum((1, 2, 3)) + Normal(0.0, 1.0).log_prob(part).sum(1)
        - q.log_prob(part).sum(1)
        for part in z
    ])  # fmt: skip
    torch.testing.assert_close(loss, math.log(7) - torch.logsumexp(log_weights, 0), rtol=1e-5, atol=1e-5)


def test_its_gradient_is_the_bounds_on_average(tiny):
    """Judge: autograd through the bound itself, averaged over many draws."""
    model, x = tiny
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(0)

    def mean_gradient(loss, n):
        draws = []
        for _ in range(n):
            mu, logvar = model.encode(x)
            gradients = torch.autograd.grad(loss(mu, logvar).sum(), weights)
            draws.append(torch.cat([gradient.flatten() for gradient in gradients]))
        draws = torch.stack(draws)
        return draws.mean(0), draws.std(0) / n**0.5

    def whole(mu, logvar):
        eps = torch.randn(5, *mu.shape, generator=generator)
        return -torch.logsumexp(log_importance_weights(model, x, mu, logvar, eps), 0)

    ours, our_error = mean_gradient(lambda mu, logvar: iwae_loss(model, x, mu, logvar, 5, generator), 3000)
    judge, judge_error = mean_gradient(whole, 3000)
    error = (our_error.square() + judge_error.square()).sqrt() + 1e-6
    assert ((ours - judge).abs() / error).max() < 5
    assert ours.norm() > 10 * error.norm()
