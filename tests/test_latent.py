"""Latent space: encoding, planes and the way back from them, and ways through it, against SciPy and scikit-learn."""

import sys
import types

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from vae import VAE, ModelConfig
from vae.latent import (
    N_TSNE_STEPS,
    compute_embedding,
    compute_tsne,
    encode_images,
    image_recon_loss,
    inside,
    lerp,
    nearest_codes,
    project_axes,
    project_dims,
    project_embedding,
    project_pca,
    sample_posterior,
    sample_prior,
    slerp,
    trustworthiness,
)

T = torch.linspace(0, 1, 9)


def codes(n: int, n_dims: int, seed: int = 0) -> torch.Tensor:
    """Unlike in every direction, and not about the origin."""
    z = torch.randn(n, n_dims, generator=torch.Generator().manual_seed(seed))
    return z * torch.linspace(2, 0.5, n_dims) + torch.arange(n_dims)


def clusters(n: int = 150, n_dims: int = 5) -> torch.Tensor:
    """Three clouds, one after the other."""
    centres = 10 * torch.eye(n_dims)[:3]
    return torch.cat(
        [centre + codes(n // 3, n_dims, seed) - torch.arange(n_dims) for seed, centre in enumerate(centres)]
    )


def test_images_are_encoded_as_one_batch_would_be():
    model = VAE(ModelConfig((1, 8, 8), widths=(16,), latent_dim=3)).eval()
    images = torch.randint(256, (25, 1, 8, 8), dtype=torch.uint8)
    mu, logvar = encode_images(model, images, batch_size=10)
    expected_mu, expected_logvar = model.encode(images / 255)
    torch.testing.assert_close(mu, expected_mu)
    torch.testing.assert_close(logvar, expected_logvar)
    assert not mu.requires_grad


def test_the_nearest_codes_are_scipys():
    mu = codes(200, 4)
    tree = scipy.spatial.cKDTree(mu.numpy())
    for z in codes(20, 4, seed=1):
        indices, distances = nearest_codes(mu, z, 5)
        expected_distances, expected_indices = tree.query(z.numpy(), k=5)
        assert indices.tolist() == expected_indices.tolist()
        assert distances.numpy() == pytest.approx(expected_distances, rel=1e-5)


def test_no_more_neighbours_than_there_are_codes():
    indices, _ = nearest_codes(codes(3, 2), torch.zeros(2), 5)
    assert sorted(indices.tolist()) == [0, 1, 2]


# Planes


def test_two_dimensions_are_their_own_plane():
    mu = codes(50, 2)
    projection = project_axes(mu)
    assert torch.equal(projection.points, mu)
    z, index = projection.to_z(-1.5, 0.25)
    assert z.tolist() == [-1.5, 0.25]
    assert index is None


def test_one_dimension_is_a_line_with_its_points_spread_upwards():
    mu = codes(50, 1)
    projection = project_axes(mu)
    assert projection.points.shape == (50, 2)
    assert torch.equal(projection.points[:, :1], mu)
    assert projection.points[:, 1].abs().max() <= 0.5
    assert torch.equal(projection.points, project_axes(mu).points)  # by chance, and always the same
    assert projection.to_z(-1.5, 0.3)[0].tolist() == [-1.5]


def test_three_dimensions_are_no_plane():
    with pytest.raises(ValueError, match="3 dimensions"):
        project_axes(codes(50, 3))


@pytest.mark.parametrize("n_dims", [3, 16])
def test_pca_is_scikit_learns(n_dims):
    mu = codes(300, n_dims)
    judge = PCA(2).fit(mu.numpy())
    projection = project_pca(mu)
    # A direction and its opposite are both right.
    signs = np.sign((projection.axes.numpy() * judge.components_).sum(1))
    np.testing.assert_allclose(projection.axes.numpy(), judge.components_ * signs[:, None], atol=1e-4)
    np.testing.assert_allclose(projection.points.numpy(), judge.transform(mu.numpy()) * signs, atol=1e-3)
    assert projection.explained_variance == pytest.approx(judge.explained_variance_ratio_.sum(), rel=1e-4)
    for x, y in ((0.0, 0.0), (1.5, -2.0), (-3.0, 0.5)):
        expected = judge.inverse_transform(np.array([[x, y]]) * signs)[0]
        z, index = projection.to_z(x, y)
        np.testing.assert_allclose(z.numpy(), expected, atol=1e-4)
        assert index is None


def test_pca_there_and_back():
    """A spot of the plane decodes at a z that lies at that very spot."""
    projection = project_pca(codes(300, 8))
    z, _ = projection.to_z(0.7, -1.1)
    assert ((z - projection.origin) @ projection.axes.T).tolist() == pytest.approx([0.7, -1.1], abs=1e-5)


def test_pca_never_flips():
    """Turning all codes over turns the map over; the axes, which have a sign of their own, stay."""
    mu = codes(300, 5)
    there, back = project_pca(mu), project_pca(-mu)
    torch.testing.assert_close(there.axes, back.axes, atol=1e-4, rtol=0)
    torch.testing.assert_close(there.points, -back.points, atol=1e-3, rtol=0)


def test_pca_of_a_collapsed_model():
    projection = project_pca(torch.zeros(300, 5))
    assert projection.points.isfinite().all()
    assert projection.to_z(1.0, 1.0)[0].isfinite().all()
    assert projection.explained_variance == 0


def test_tsne_keeps_neighbours():
    """Judge: scikit-learn's trustworthiness, 1 where the plane's neighbours are all neighbours in latent space."""
    mu = clusters()
    points = compute_tsne(mu)
    assert points.shape == (len(mu), 2)
    assert sklearn_trustworthiness(mu.numpy(), points.numpy(), n_neighbors=5) > 0.9


def test_tsne_keeps_neighbours_as_well_as_scikit_learns():
    mu = clusters(600, 8)
    judged = [compute_tsne(mu).numpy(), TSNE(random_state=0).fit_transform(mu.numpy())]
    ours, theirs = (sklearn_trustworthiness(mu.numpy(), points, n_neighbors=5) for points in judged)
    assert ours > theirs - 0.01


def test_tsne_is_the_same_for_the_same_seed():
    mu = clusters(60)
    first = compute_tsne(mu, seed=1)
    assert torch.equal(first, compute_tsne(mu, seed=1, progress=lambda *_: None))


def test_tsne_is_the_same_for_any_number_of_threads():
    mu, n_threads = clusters(600), torch.get_num_threads()
    maps = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            maps.append(compute_tsne(mu))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(*maps)


def test_tsne_reports_its_progress():
    seen: list[tuple[int, int]] = []
    compute_tsne(clusters(60), progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(done, N_TSNE_STEPS) for done in range(10, N_TSNE_STEPS + 1, 10)]


def test_tsne_reports_the_map_so_far():
    maps: list[torch.Tensor] = []
    points = compute_tsne(clusters(60), progress=lambda _done, _total, points: maps.append(points))
    assert {(map_.shape, map_.dtype) for map_ in maps} == {((60, 2), torch.float32)}
    assert not torch.equal(maps[0], maps[1])  # copies, each as it was
    torch.testing.assert_close(maps[-1], points, atol=0.5, rtol=0)  # one step short of the result


@pytest.mark.parametrize("n_dims", [1, 2, 16])
@pytest.mark.parametrize("n", [2, 3, 5, 60])
def test_tsne_of_few_codes(n, n_dims):
    points = compute_tsne(codes(n, n_dims))
    assert points.shape == (n, 2)
    assert points.isfinite().all()


def test_tsne_of_codes_that_repeat():
    assert compute_tsne(codes(20, 4).repeat(5, 1)).isfinite().all()


def test_tsne_of_a_collapsed_model_is_refused():
    with pytest.raises(ValueError, match="all codes are the same"):
        compute_tsne(torch.full((60, 3), 0.5))


def test_a_spot_of_a_tsne_stands_for_the_image_nearest_to_it():
    mu, points = codes(100, 4), 10 * codes(100, 2, seed=1)
    projection = project_embedding("tsne", mu, points)
    tree = scipy.spatial.cKDTree(points.numpy())
    for x, y in ((0.0, 0.0), (12.0, -3.0), (1e6, 1e6)):
        z, index = projection.to_z(x, y)
        assert index == tree.query([x, y])[1]
        assert torch.equal(z, mu[index])


# What a plane keeps, and parts of it


def test_trustworthiness_is_scikit_learns():
    mu = codes(400, 6)
    for points in (project_pca(mu).points, codes(400, 2, seed=1), mu[:, :2]):
        expected = sklearn_trustworthiness(mu.numpy(), points.numpy(), n_neighbors=5)
        assert trustworthiness(mu, points) == pytest.approx(expected, abs=1e-5)  # a near tie is one rank


def test_trustworthiness_of_some_stands_for_all():
    mu = codes(2500, 6)
    points = project_pca(mu).points
    assert trustworthiness(mu, points, n_queries=500) == pytest.approx(
        sklearn_trustworthiness(mu.numpy(), points.numpy()), abs=0.01
    )


def test_trustworthiness_of_the_codes_themselves_is_one():
    mu = codes(100, 2)
    assert trustworthiness(mu, mu) == 1
    mu[3] = torch.nan
    assert trustworthiness(mu, mu) == 1  # what is no number does not count
    assert np.isnan(trustworthiness(mu[:8], mu[:8]))  # too few to tell


def test_inside_a_convex_outline_is_scipys():
    points = codes(500, 2)
    corners = torch.tensor([[-1.0, -1.0], [2.0, -0.5], [2.5, 2.0], [0.0, 3.0]])
    judge = scipy.spatial.Delaunay(corners.numpy()).find_simplex(points.numpy()) >= 0
    assert inside(points, corners).tolist() == judge.tolist()
    assert inside(points, corners.flip(0)).tolist() == judge.tolist()  # drawn the other way round
    assert 50 < judge.sum() < 450


def test_inside_an_outline_with_a_notch_and_of_no_area():
    notched = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [2.0, 1.0], [0.0, 4.0]])
    points = torch.tensor([[2.0, 0.5], [2.0, 2.0], [0.5, 2.0], [3.8, 3.0], [5.0, 1.0], [float("nan"), 1.0]])
    assert inside(points, notched).tolist() == [True, False, True, True, False, False]
    assert not inside(points, torch.tensor([[0.0, 0.0], [1.0, 1.0]])).any()


def test_two_of_many_dimensions_and_back():
    mu, hold = codes(50, 5), codes(1, 5, seed=2)[0]
    projection = project_dims(mu, (3, 1), hold)
    assert torch.equal(projection.points, mu[:, [3, 1]])
    z, index = projection.to_z(0.5, -2.0)
    assert index is None
    assert z.tolist() == pytest.approx([float(hold[0]), -2.0, float(hold[2]), 0.5, float(hold[4])])


@pytest.mark.parametrize("dims", [(1, 1), (0, 5), (-1, 2)])
def test_dimensions_that_make_no_plane(dims):
    with pytest.raises(ValueError, match="two different ones from 0 to 4"):
        project_dims(codes(50, 5), dims, torch.zeros(5))


def test_codes_that_are_no_numbers_disturb_no_other():
    mu = codes(120, 4)
    odd = mu.clone()
    odd[7], odd[9, 2] = torch.nan, torch.inf
    good = torch.ones(120, dtype=torch.bool).index_fill(0, torch.tensor([7, 9]), False)
    projection = project_pca(odd)
    torch.testing.assert_close(projection.points[good], project_pca(mu[good]).points)
    assert not projection.points[~good].isfinite().all(1).any()
    assert nearest_codes(odd, mu[7], 118)[0].sort().values.tolist() == torch.nonzero(good).flatten().tolist()
    points = compute_embedding("tsne", odd)
    assert torch.equal(points[good], compute_tsne(mu[good]))
    assert points[~good].isnan().all()
    _, index = project_embedding("tsne", odd, points).to_z(0.0, 0.0)
    assert good[index]


def test_pca_of_one_code():
    projection = project_pca(torch.tensor([[1.0, 2.0, 3.0]]))
    assert projection.points.tolist() == [[0.0, 0.0]]
    torch.testing.assert_close(projection.axes @ projection.axes.T, torch.eye(2))


@pytest.fixture
def umap_stand_in(monkeypatch):
    """umap-learn is optional, and heavy: what is asked of it is written down, and the first two columns answered."""
    asked = {}

    class UMAP:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, x):
            return x[:, :2].astype(float)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    return asked


def test_umap_where_it_is_installed(umap_stand_in):
    mu = codes(60, 4)
    mu[5] = torch.nan
    points = compute_embedding("umap", mu)
    assert points.dtype == torch.float32
    assert points[5].isnan().all()
    assert torch.equal(points[6:], mu[6:, :2])
    assert umap_stand_in == {"n_neighbors": 15, "random_state": 0, "n_jobs": 1}


def test_umap_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ValueError, match="pip install umap-learn"):
        compute_embedding("umap", codes(60, 4))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_reconstruction_error_of_each_image_is_torch_distributions(likelihood):
    config = ModelConfig((1, 8, 8), widths=(16,), latent_dim=3, likelihood=likelihood, sigma=0.3)
    model = VAE(config).eval()
    images, mu = torch.randint(256, (25, 1, 8, 8), dtype=torch.uint8), torch.randn(25, 3)
    logits = model.decode(mu)
    if likelihood == "bernoulli":
        p = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    else:
        p = torch.distributions.Normal(logits.sigmoid(), 0.3)
    expected = -p.log_prob(images / 255).flatten(1).sum(1)
    torch.testing.assert_close(image_recon_loss(model, images, mu, batch_size=10), expected, atol=1e-3, rtol=1e-5)


# Ways


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    start, end = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    return start, 2 * end


@pytest.mark.parametrize("way", [lerp, slerp])
def test_the_ends_are_exact(ends, way):
    start, end = ends
    path = way(start, end, T)
    assert path.shape == (9, 16)
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)


def test_lerp_is_a_straight_line_at_even_pace(ends):
    start, end = (value.numpy() for value in ends)
    np.testing.assert_allclose(lerp(*ends, T).numpy(), np.linspace(start, end, 9), atol=1e-6)


@pytest.mark.parametrize("n_dims", [2, 3, 16, 512])
def test_slerp_is_scipys(n_dims):
    start, end = torch.nn.functional.normalize(torch.randn(2, n_dims, dtype=torch.float64))
    expected = scipy.spatial.geometric_slerp(start.numpy(), end.numpy(), T.double().numpy())
    np.testing.assert_allclose(slerp(start, end, T.double()).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 1.0, 3.1])
def test_slerp_is_scipys_in_float32_at_any_angle(angle):
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([angle]).cos().repeat(2)
    end[1] = torch.tensor(angle).sin()
    expected = scipy.spatial.geometric_slerp([1.0, 0.0], [np.cos(angle), np.sin(angle)], T.double().numpy())
    np.testing.assert_allclose(slerp(start, end, T).numpy(), expected, atol=1e-5)


def test_slerps_length_goes_over_evenly(ends):
    lengths = slerp(*ends, T).norm(dim=1)
    expected = torch.linspace(ends[0].norm().item(), ends[1].norm().item(), 9)
    torch.testing.assert_close(lengths, expected)


def test_slerp_is_the_straight_line_where_there_is_no_arc(ends):
    start, _ = ends
    for end in (torch.zeros(16), -start, -3 * start, start, 2 * start):
        torch.testing.assert_close(slerp(start, end, T), lerp(start, end, T))
        torch.testing.assert_close(slerp(end, start, T), lerp(end, start, T))
    assert slerp(torch.zeros(16), torch.zeros(16), T).abs().max() == 0


# Draws


def test_the_prior_is_a_standard_normal():
    z = sample_prior(5000, 4, seed=0)
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 0.06


def test_the_temperature_scales_the_draws():
    torch.testing.assert_close(sample_prior(10, 3, seed=7, temperature=0.5), 0.5 * sample_prior(10, 3, seed=7))
    assert sample_prior(10, 3, seed=7, temperature=0.0).abs().max() == 0


def test_the_posterior_is_the_images_own():
    mu, logvar = torch.tensor([1.0, -3.0]), torch.tensor([-2.0, 1.0])
    z = sample_posterior(mu, logvar, 10_000, seed=0)
    for column, mean, std in zip(z.T, mu, torch.exp(logvar / 2), strict=True):
        assert scipy.stats.kstest(column.numpy(), scipy.stats.norm(mean, std).cdf).pvalue > 0.01


def test_draws_depend_on_the_seed_alone():
    zeros = torch.zeros(3)
    before = torch.get_rng_state()
    assert torch.equal(sample_prior(5, 3, seed=1), sample_prior(5, 3, seed=1))
    assert not torch.equal(sample_prior(5, 3, seed=1), sample_prior(5, 3, seed=2))
    assert torch.equal(sample_posterior(zeros, zeros, 5, seed=1), sample_posterior(zeros, zeros, 5, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
