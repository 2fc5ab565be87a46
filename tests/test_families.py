"""Each family trains, is kept, opened, filmed and measured, on digits and for few steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.conftest import SMALL_MODEL, SMALL_TRAINING
from vae import VAE, ModelConfig, TrainConfig, data, runs
from vae.checkpoint import checkpoint_root, find, load_latents, load_model, read_config, read_history, read_metrics
from vae.config import LABELS, ConfigError, check_fit, has_prior
from vae.data import binarize, corrupt, load_targets, to_float
from vae.evaluate import active_dims, evaluate, perplexity, symbol_usage
from vae.evaluations import measure
from vae.families import FAMILIES, family_of
from vae.film import FilmWriter, read_film
from vae.networks import Codebook
from vae.objectives import LARGEST_LOGIT, kl_per_dim
from vae.prior import fit_mixture, own_prior
from vae.train import UNKNOWN, Batch, Training, batch_terms, fast_arithmetic, held_out_terms
from vae.worker import work

SMALL = {
    "dataset": "digits", "widths": (32,), "latent_dim": 4, "epochs": 2, "batch_size": 500, "threads": 1,
    "device": "cpu", "n_samples": 5,
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A trained model of each: its name, which is the family's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTARIUM_CHECKPOINTS", str(tmp_path_factory.getbasetemp() / "families"))
        model, training = FAMILIES[request.param].configs(SMALL)
        if not find_or_none(request.param):
            runs.create(request.param, model, training)
            for _ in work(request.param):
                pass
        yield request.param


def find_or_none(name):
    return (checkpoint_root() / name).is_dir()


def test_a_family_trains_and_opens(family):
    folder = find(family)
    model, latents, metrics = load_model(folder), load_latents(folder), read_metrics(folder)
    training = read_config(folder)[1]
    records = read_history(folder)
    if training.objective != "capacity":  # whose target rises
        assert records[-1].held_out.loss < records[0].held_out.loss + 1
    assert latents.mu.shape == (300, 4)
    assert latents.finite.all()
    has_kl = model.config.latent == "gaussian"
    assert (metrics.elbo is not None) == (metrics.kl is not None) == has_kl
    film = read_film(folder)
    assert film.frames[-1].step == records[-1].step
    assert family_of(*read_config(folder)) == family


def test_a_family_is_measured(family):
    folder = find(family)
    model, training = load_model(folder), read_config(folder)[1]
    train, held_out = (load_targets("digits", split, training.targets) for split in data.SPLITS)
    result = evaluate(model, training, train, held_out, n_importance_samples=3)
    is_variational = model.config.latent == "gaussian"
    for name in ("elbo", "kl", "nll", "bits_per_dim", "mutual_information", "marginal_kl"):
        assert (getattr(result, name) is not None) == is_variational
    if is_variational:
        assert result.nll < -result.elbo
        assert result.kl == pytest.approx(sum(result.kl_per_dim), rel=1e-4)
        assert result.kl == pytest.approx(result.mutual_information + result.marginal_kl, rel=1e-4)
        assert result.bits_per_dim == pytest.approx(-result.elbo / 64 / math.log(2))
    assert (result.label_accuracy is not None) == (model.config.labels == "predicted")
    assert (result.denoising_gain is not None) == (training.corruption != "none")
    assert (result.symbols_in_use is not None) == (model.config.latent == "codebook")
    assert (result.sigma is not None) == (family in ("vae-gaussian", "sigma-vae", "vae-laplace"))
    assert (result.optimal_sigma is not None) == (family in ("vae-gaussian", "sigma-vae"))
    assert result.active_units == sum(result.active_dims)
    if result.optimal_sigma:
        assert result.optimal_sigma == pytest.approx(result.mse**0.5, rel=1e-4)
    assert 0 < result.mse < 0.2
    assert result.sample_distance > 0


def test_a_family_can_be_sampled(family):
    folder = find(family)
    model, latents, training = load_model(folder), load_latents(folder), read_config(folder)[1]
    prior = own_prior(model, training, latents.mu, latents.logvar)
    z = prior.sample(20, torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10 if model.config.labels == "given" else None
    pictures = model.recon(z, labels)
    assert pictures.shape == (20, 1, 8, 8)
    assert ((pictures >= 0) & (pictures <= 1)).all()
    assert prior.about


@pytest.mark.parametrize("name", ["ae-dropout", "denoising-ae", "cvae", "vq-vae", "vae-dynamic", "iwae", "swae"])
def test_a_training_taken_up_again_gives_the_same_weights(name):
    """Also with what draws at random beside eps."""
    model, training = FAMILIES[name].configs(SMALL)
    images = [data.load("digits", split) for split in data.SPLITS]

    def start() -> Training:
        sets = (images[0].images, images[1].images, images[0].labels, images[1].labels)
        return Training(VAE(model), training, *sets)

    whole = start()
    for _ in whole.records():
        pass
    first = start()
    for record in first.records():
        if record.step == 2:
            break
    second = start()
    second.load_state(first.state())
    for _ in second.records():
        pass
    assert all(map(torch.equal, whole.model.state_dict().values(), second.model.state_dict().values()))


# Labels


def test_the_model_of_one_class_is_the_model_told_that_class():
    for network in ({}, {"network": "conv", "channels": (4,), "widths": (8,)}):
        model = VAE(replace(ModelConfig((1, 8, 8), labels="given", n_classes=3), **network)).eval()
        plain, y = model.for_class(2), torch.full((5,), 2)
        x, z = torch.rand(5, 1, 8, 8), torch.randn(5, 2)
        for ours, told in zip(plain.encode(x), model.encode(x, y), strict=True):
            torch.testing.assert_close(ours, told)
        torch.testing.assert_close(plain.decode(z), model.decode(z, y))
        assert plain.config.labels == "unused"
        with pytest.raises(ValueError, match="trained with labels"):
            model.encode(x)
    with pytest.raises(ValueError, match="not told"):
        plain.for_class(0)


def test_only_a_share_of_the_labels_is_known():
    images = [data.load("digits", split) for split in data.SPLITS]
    model = replace(SMALL_MODEL, labels="predicted", n_classes=10)
    config = replace(SMALL_TRAINING, labelled_share=0.1, seed=3)
    training = Training(VAE(model), config, images[0].images, images[1].images, images[0].labels, images[1].labels)
    known = training.labels != UNKNOWN
    assert known.sum() == round(0.1 * len(known))
    assert torch.equal(training.labels[known], images[0].labels[known])


@pytest.mark.usefixtures("checkpoints")
def test_a_class_left_out_is_told_as_an_anomaly():
    model, training = FAMILIES["ae"].configs(SMALL | {"left_out_class": 0, "epochs": 20, "batch_size": 100})
    runs.create("without-0", model, training)
    for _ in work("without-0"):
        pass
    sets = [data.load("digits", split) for split in data.SPLITS]
    result = evaluate(load_model(find("without-0")), training, *sets, n_importance_samples=0)
    assert result.anomaly_auc > 0.8


# What the model sees


def test_binarized_pixels_are_white_as_often_as_they_are_bright():
    images = torch.arange(256, dtype=torch.uint8).expand(4000, 256)
    drawn = binarize(images, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0, 255}
    shares = drawn.float().mean(0) / 255
    torch.testing.assert_close(shares, torch.arange(256) / 255, atol=0.04, rtol=0)
    assert (shares[0], shares[255]) == (0, 1)


def test_static_targets_are_drawn_once_and_held_out_ones_always_the_same():
    for targets in ("static", "dynamic"):
        first, again = (load_targets("digits", "held_out", targets).images for _ in range(2))
        assert torch.equal(first, again)
        assert set(first.unique().tolist()) == {0, 255}
    assert set(load_targets("digits", "train", "static").images.unique().tolist()) == {0, 255}
    assert torch.equal(load_targets("digits", "train", "grey").images, data.load("digits", "train").images)


def test_corruption_leaves_what_it_does_not_hit():
    x = torch.full((50, 1, 20, 20), 0.5)
    generator = torch.Generator().manual_seed(0)
    assert corrupt(x, "none", 0.3, generator) is x
    masked = corrupt(x, "masking", 0.3, generator)
    assert (masked == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    pepper = corrupt(x, "salt_and_pepper", 0.3, generator)
    for value in (0, 1):
        assert (pepper == value).float().mean() == pytest.approx(0.15, abs=0.02)
    noisy = corrupt(x, "gaussian", 0.1, generator)
    assert (noisy - x).std() == pytest.approx(0.1, abs=0.005)
    assert (x == 0.5).all()


def test_a_mixture_finds_the_clusters_it_was_drawn_from():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    mu = centres.repeat(500, 1) + 0.3 * torch.randn(1000, 2, generator=generator)
    mixture = fit_mixture(mu, torch.full_like(mu, -torch.inf), n_components=2)
    order = mixture.means[:, 0].argsort()
    torch.testing.assert_close(mixture.means[order], centres, atol=0.1, rtol=0)
    drawn = mixture.sample(4000, generator)
    torch.testing.assert_close(drawn.mean(0), mixture.centre, atol=0.2, rtol=0)
    near = torch.cdist(drawn, centres).min(1).values
    assert math.sqrt(near.square().mean() / 2) == pytest.approx(0.3, abs=0.03)


# What can't work


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_dim": 65}, "latent_dim"),
        ({"objective": "iwae", "n_samples": 0}, "n_samples"),
        ({"objective": "iwae", "beta": 2.0}, "beta"),
        ({"latent": "point", "objective": "sparse", "rho": 0.0, "code_activation": "sigmoid"}, "rho"),
        ({"latent": "point", "objective": "sparse", "rho": 1.0, "code_activation": "sigmoid"}, "rho"),
        ({"latent": "point", "objective": "sparse"}, "code_activation"),
        ({"latent": "codebook", "objective": "vq", "n_symbols": 1}, "n_symbols"),
        ({"latent": "codebook", "objective": "vq", "latent_dim": 5, "symbol_dim": 2}, "symbol_dim"),
        ({"latent": "point"}, "objective"),
        ({"objective": "iwae", "dropout": 0.1}, "dropout"),
        ({"objective": "tcvae", "batch_size": 1}, "batch_size"),
        ({"objective": "contractive"}, "objective"),
        ({"scale": "learned"}, "scale"),
        ({"labels": "given", "n_classes": 1}, "n_classes"),
        ({"targets": "dynamic", "likelihood": "continuous_bernoulli"}, "likelihood"),
        ({"objective": "tcvae", "free_bits": 0.5}, "free_bits"),
        ({"corruption": "masking", "corruption_level": 1.5}, "corruption_level"),
        ({"latent": "codebook", "objective": "vq", "labels": "given", "n_classes": 10}, "labels"),
        ({"latent": "point", "objective": "mmd_rbf", "code_activation": "sigmoid"}, "code_activation"),
        ({"labels": "given", "n_classes": 10, "left_out_class": 3}, "left_out_class"),
        ({"likelihood": "gaussian", "scale": "learned", "sigma": 0.005}, "sigma"),
    ],
)
def test_what_cannot_work_is_refused_before_it_begins(settings, field):
    with pytest.raises(ConfigError) as error:
        FAMILIES["vae"].configs({"dataset": "digits", **settings})
    assert error.value.field == field


def test_images_that_do_not_fit_are_refused():
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    config = replace(SMALL_TRAINING, batch_size=10)
    for shape, train, field in (
        ((1, 8, 8), images.expand(-1, 3, -1, -1), "image_shape"),
        ((1, 8, 8), images.float(), "dataset"),
    ):
        for pair in ((train, train), (images, train)):
            with pytest.raises(ConfigError) as error:
                Training(VAE(ModelConfig(shape)), config, *pair)
            assert error.value.field == field
    for labels in LABELS[1:]:
        model = VAE(ModelConfig((1, 8, 8), labels=labels, n_classes=3))
        with pytest.raises(ConfigError, match="the images have none"):
            Training(model, config, images, images)
        with pytest.raises(ConfigError, match="go up to 7"):
            Training(model, config, images, images, torch.full((20,), 7), torch.full((20,), 7))


@pytest.mark.parametrize("objective", ["mmd_rbf", "energy", "tcvae"])
def test_no_image_is_alone_where_codes_are_compared(objective):
    images = torch.zeros(21, 1, 8, 8, dtype=torch.uint8)
    training = replace(SMALL_TRAINING, batch_size=10, objective=objective)
    run = Training(VAE(ModelConfig((1, 8, 8))), training, images, images)
    assert run.steps_per_epoch == 2  # the one that is left over waits for another epoch
    assert Training(run.model, replace(training, objective="elbo"), images, images).steps_per_epoch == 3
    with pytest.raises(ConfigError, match="compares the codes of a batch") as error:
        runs.check_settings(ModelConfig((1, 8, 8)), replace(training, batch_size=1))
    assert error.value.field == "batch_size"


def test_a_batch_may_be_larger_than_what_a_class_left_out_leaves():
    model, training = FAMILIES["beta-tcvae"].configs(SMALL | {"left_out_class": 0, "batch_size": 1400, "epochs": 1})
    runs.check_settings(model, training)
    some = data.without_class(data.load("digits", "train"), 0)
    assert Training(VAE(model), training, some.images, some.images).steps_per_epoch == 1
    with pytest.raises(ConfigError, match="there is 1"):
        Training(VAE(model), training, some.images[:1], some.images)


@pytest.mark.parametrize(
    ("settings", "family"),
    [
        ({"latent": "point", "objective": "reconstruction", "likelihood": "gaussian"}, "ae"),
        ({"latent": "point", "objective": "reconstruction", "corruption": "masking"}, "denoising-ae"),
        ({"latent": "codebook", "objective": "vq", "likelihood": "gaussian", "latent_dim": 4}, "vq-vae"),
        ({"labels": "given", "targets": "dynamic"}, "cvae"),
        ({"labels": "predicted", "beta_schedule": "warmup"}, "semi-supervised-vae"),
        ({"objective": "iwae", "targets": "dynamic"}, "iwae"),
        ({"likelihood": "gaussian", "scale": "learned", "beta_schedule": "warmup"}, "sigma-vae"),
        ({"beta": 2.0}, "beta-vae"),
        ({"beta": 2.0, "targets": "dynamic"}, "vae-dynamic"),
        ({"free_bits": 0.1}, "vae-free-bits"),
        ({"latent": "point", "objective": "reconstruction", "dropout": 0.5}, "ae-dropout"),
        ({"objective": "sliced_wasserstein", "beta": 10.0}, "mmd-vae"),
    ],
)
def test_a_run_keeps_its_family_with_other_settings(settings, family):
    assert family_of(*FAMILIES["vae"].configs({"dataset": "digits", **settings})) == family


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_what_its_curve_says(name):
    """As `instrument.LOSSES` has it: the parts that are shown make up the loss."""
    model_config, training = FAMILIES[name].configs({**SMALL, "labelled_share": 1.0})
    model = VAE(model_config)
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    images = data.load("digits", "held_out")
    batch = Batch(to_float(images.images[:50]), to_float(images.images[:50]), images.labels[:50])
    beta, n = 3.0, 50
    values = batch_terms(model.eval(), batch, training, beta, 0.25, torch.Generator().manual_seed(1))
    loss, recon, kl, penalty = (values / n).tolist()
    objective = training.objective
    expected = recon + beta * penalty
    if objective in ("elbo", "iwae", "reconstruction"):
        weight = {"elbo": beta, "iwae": 1.0, "reconstruction": 0.0}[objective]
        mu, logvar = model.encode(batch.seen, batch.labels if model_config.labels == "given" else None)
        floors = kl_per_dim(mu, logvar).mean(0).clamp_min(training.free_bits).sum().item() if weight else 0.0
        expected = recon + weight * floors
        assert math.isnan(penalty)
    if objective == "tcvae":
        expected = recon + kl + (beta - 1) * penalty
    if objective == "capacity":  # half of it at a quarter of the training
        assert penalty == pytest.approx(abs(kl - training.capacity / 2), rel=1e-5)
    if model_config.labels == "predicted":
        classes = model.class_logits(model.encode(batch.seen)[0])
        expected += training.label_weight * torch.nn.functional.cross_entropy(classes, batch.labels).item()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert math.isnan(kl) == (model_config.latent != "gaussian")


@pytest.mark.parametrize("name", ["iwae", "ae", "ae-dropout"])
def test_a_loss_without_a_weight_shows_none(name):
    model, training = FAMILIES[name].configs({**SMALL, "epochs": 1, "batch_size": 100})
    images = data.load("digits", "held_out").images
    assert {record.beta for record in Training(VAE(model), training, images, images).records()} == {None}
    with pytest.raises(ConfigError, match="no weight") as error:
        check_fit(model, replace(training, beta=2.0))
    assert error.value.field == "beta"


@pytest.mark.parametrize("name", ["iwae", "ae", "beta-tcvae"])
def test_a_schedule_that_would_do_nothing_or_harm_is_refused(name):
    with pytest.raises(ConfigError, match="choose 'constant'") as error:
        FAMILIES[name].configs({**SMALL, "beta_schedule": "warmup"})
    assert error.value.field == "beta_schedule"


def test_of_a_codebook_the_symbols_are_measured():
    model = VAE(FAMILIES["vq-vae"].configs(SMALL)[0])
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.codebook.vectors.fill_(0.5)  # all symbols are one
    images = data.load("digits", "held_out")
    result = evaluate(model, FAMILIES["vq-vae"].configs(SMALL)[1], images, images, 0)
    assert (result.symbols_in_use, result.symbol_perplexity, result.active_units) == (1, 1, 0)
    assert sum(result.symbol_usage) == pytest.approx(1)


def test_a_classifier_of_a_codebook_reads_the_symbols():
    config, _ = FAMILIES["vq-vae"].configs(SMALL | {"labels": "predicted"})
    model = VAE(config)
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.codebook.vectors.fill_(0.5)
    mu = torch.randn(20, config.latent_dim, requires_grad=True)
    classes = model.class_logits(mu)
    torch.testing.assert_close(classes, classes[:1].expand(20, -1))
    classes.sum().backward()  # as through the choice of symbols in training
    assert mu.grad.abs().sum() > 0


def test_symbols_that_are_used_as_often_have_their_number_as_perplexity():
    model = VAE(ModelConfig((1, 8, 8), widths=(), latent_dim=2, latent="codebook", n_symbols=8, symbol_dim=1))
    codes = torch.arange(4.0).repeat(3000)[:, None].repeat(1, 2)
    with torch.no_grad():
        model.codebook.vectors.copy_(torch.arange(8.0)[:, None])
    assert model.codebook.symbols(codes).unique().tolist() == [0, 1, 2, 3]
    usage = symbol_usage(model, codes)
    assert usage == [0.25] * 4 + [0.0] * 4
    assert perplexity(usage) == pytest.approx(4)


def test_samples_of_a_model_of_binarized_images_are_black_and_white(monkeypatch):
    """Mean pictures would count as better than the images themselves."""
    seen = []
    monkeypatch.setattr("vae.evaluate.frechet_distance", lambda samples, _: seen.append(samples.unique()) or 0.0)
    for family in ("vae-dynamic", "vae"):
        config, training = FAMILIES[family].configs(SMALL)
        some = load_targets("digits", "held_out", training.targets)
        model = VAE(config)
        model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
        evaluate(model, training, some, some, 0)
        assert (len(seen[-1]) == 2) == (family == "vae-dynamic")


def test_a_model_in_training_is_measured_without_dropout():
    model_config, training = FAMILIES["denoising-ae"].configs(SMALL | {"dropout": 0.5})
    model = VAE(model_config)
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    some = data.load("digits", "held_out")
    gains = [evaluate(model.train(mode), training, some, some, 0).denoising_gain for mode in (True, False)]
    assert gains[0] == gains[1]


def test_held_out_labels_count_as_much_as_the_known_ones():
    """Else the held-out curve of a model that knows few labels would tower over the training curve."""
    model, training = FAMILIES["semi-supervised-vae"].configs({**SMALL, "batch_size": 1497, "epochs": 1})
    train = data.load("digits", "train")
    start = Training(VAE(model), training, train.images, train.images, train.labels, train.labels)
    share = held_out_terms(start.model, train.images, training, train.labels)
    known = held_out_terms(start.model, train.images, replace(training, labelled_share=1.0), train.labels)
    entropy = (known.loss - known.recon_loss - known.kl) / training.label_weight
    assert share.loss - share.recon_loss - share.kl == pytest.approx(0.02 * 50 * entropy, rel=1e-3)


@pytest.mark.usefixtures("checkpoints")
def test_factors_are_those_of_the_images_trained_on():
    model, training = FAMILIES["vae"].configs({**SMALL, "dataset": "shapes", "epochs": 1, "left_out_class": 1})
    runs.create("two", model, training)
    for _ in work("two"):
        pass
    assert 0 <= measure("two", 0)["informativeness"] <= 1


def test_dimensions_of_a_code_without_a_prior_are_held_against_the_widest():
    mu = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.05, 0.04, 0.001])
    assert active_dims(mu).tolist() == [False, False, False]
    assert active_dims(mu, has_prior=False).tolist() == [True, True, False]


def test_a_continuous_bernoulli_has_a_limit():
    """784 pixels that are exactly black can't be likelier than log(9.21) nats each."""
    model = VAE(ModelConfig((1, 28, 28), likelihood="continuous_bernoulli"))
    nll = model.recon_loss(torch.full((1, 1, 28, 28), -1e4), torch.zeros(1, 1, 28, 28))
    assert -nll.item() == pytest.approx(784 * math.log(LARGEST_LOGIT), rel=1e-3)
    assert model.mean_image(torch.full((1, 1, 28, 28), -1e4)).max() == model.mean_image(
        torch.full((1,), -LARGEST_LOGIT)[None, None, None]
    )


def test_symbols_are_the_nearest_ones_in_training_too():
    book = Codebook(64, 2)
    book.vectors.data.normal_(generator=torch.Generator().manual_seed(0))
    z = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    exact = book.symbols(z.double().float())
    with fast_arithmetic():
        assert torch.equal(book.symbols(z), exact)


def test_every_family_says_what_it_is():
    for name, kind in FAMILIES.items():
        model, training = kind.configs({"dataset": "mnist"})
        check_fit(model, training)
        assert family_of(model, training) == name
        assert len(kind.about) > 80
        assert kind.source
        assert has_prior(model, training) in (True, False)


@pytest.mark.usefixtures("checkpoints")
def test_a_film_of_other_families_is_kept_small():
    """What a frame holds does not depend on the family."""
    model, training = FAMILIES["denoising-ae"].configs(SMALL)
    runs.create("noisy", model, training)
    for _ in work("noisy"):
        pass
    film = read_film(find("noisy"))
    assert film.still.examples
    assert FilmWriter(find("noisy"), film.still, 10**9).frames[-1].step == film.frames[-1].step


def test_train_config_takes_old_settings():
    assert TrainConfig("digits").objective == "elbo"
