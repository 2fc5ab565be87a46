"""The terms of the ELBO against torch.distributions and closed forms."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.config import ModelConfig
from vae.objectives import bernoulli_nll, gaussian_nll, kl_per_dim, recon_loss

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
    torch.testing.assert_close(recon_loss(logits, x, bernoulli), bernoulli_nll(logits, x))
    expected = -Normal(torch.sigmoid(logits), 0.2).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(recon_loss(logits, x, gaussian), expected)


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
