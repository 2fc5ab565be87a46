"""Training: same seed, same weights; every record's numbers can be added up by someone else."""

import copy
import itertools
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae import VAE, ConfigError, ModelConfig, TrainConfig, data
from vae.train import (
    Record,
    Terms,
    Training,
    TrainingError,
    beta_share_at,
    fast_arithmetic,
    held_out_elbo,
    learning_rate_at,
    pick_device,
    train,
)

MODEL = ModelConfig((1, 8, 8), widths=(32,), latent_dim=2)
TRAINING = TrainConfig("digits", epochs=2, device="cpu")
N_TRAIN, N_STEPS_PER_EPOCH = 1497, 12  # 1497 = 11 x 128 + 89


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return data.load("digits", "train").images, data.load("digits", "held_out").images


def train_all(digits, model_config: ModelConfig = MODEL, config: TrainConfig = TRAINING) -> tuple[VAE, list[Record]]:
    model = VAE(model_config)
    return model, list(train(model, config, *digits))


def terms_by_torch(model: VAE, x: torch.Tensor, eps: torch.Tensor, beta: float) -> Terms:
    """Loss and parts by torch.distributions, in float64. x: (N, C, H, W) in [0, 1]; eps: (N, D)."""
    judge = copy.deepcopy(model).double()
    mu, logvar = judge.encode(x.double())
    posterior = Normal(mu, torch.exp(0.5 * logvar))
    logits = judge.decode(mu + posterior.scale * eps.double())
    if model.config.likelihood == "bernoulli":
        likelihood = Bernoulli(logits=logits, validate_args=False)  # which would refuse grey values
    else:
        likelihood = Normal(torch.sigmoid(logits), model.config.sigma)
    recon = -likelihood.log_prob(x.double()).sum((1, 2, 3)).mean().item()
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean().item()
    return Terms(recon + beta * kl, recon, kl)


def assert_terms_close(terms: Terms | None, expected: Terms, rel: float) -> None:
    assert terms
    for name in ("loss", "recon_loss", "kl"):
        assert getattr(terms, name) == pytest.approx(getattr(expected, name), rel=rel), name


# Seeds


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_same_seed_same_weights_bit_for_bit(digits, network):
    model_config = MODEL if network == "mlp" else ModelConfig((1, 8, 8), "conv", (4,), (16,))
    first, first_records = train_all(digits, model_config)
    torch.manual_seed(1234)  # of no account: nothing draws from torch's global generator
    second, second_records = train_all(digits, model_config)
    other, _ = train_all(digits, model_config, replace(TRAINING, seed=1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.decoder[0].weight, other.decoder[0].weight)
    for one, two in zip(first_records, second_records, strict=True):
        assert (one.train, one.held_out) == (two.train, two.held_out)


# Numbers


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_held_out_terms_are_torchs(digits, likelihood):
    model, records = train_all(digits, replace(MODEL, likelihood=likelihood), replace(TRAINING, beta=3.0))
    images = digits[1]
    eps = torch.randn(len(images), 2, generator=torch.Generator().manual_seed(0))
    expected = terms_by_torch(model, images / 255, eps, beta=3.0)
    assert_terms_close(records[-1].held_out, expected, rel=1e-5)


def test_held_out_terms_do_not_depend_on_the_batch(digits):
    """A mean of batches' means would weigh the last, smaller batch too much. eps differs, so it is left out."""
    model, _ = train_all(digits)
    model.encoder[-1].bias.data[2:] = -40.0  # logvar: the posterior is a point
    terms = [held_out_elbo(model, digits[1], batch_size=size) for size in (300, 128, 7)]
    for other in terms[1:]:
        assert_terms_close(other, terms[0], rel=1e-5)


def test_training_terms_are_torchs(digits):
    """The record after the first step holds the first batch's terms under the first weights."""
    model = VAE(MODEL)
    records = train(model, replace(TRAINING, beta=3.0), *digits)
    next(records)
    fresh = copy.deepcopy(model)
    first_step = next(records)
    assert first_step.step == 1
    generator = torch.Generator().manual_seed(TRAINING.seed)
    batch = torch.randperm(N_TRAIN, generator=generator)[: TRAINING.batch_size]
    eps = torch.randn(TRAINING.batch_size, 2, generator=generator)
    expected = terms_by_torch(fresh, digits[0][batch] / 255, eps, beta=3.0)
    # Training may multiply in bfloat16, which has 8 bits of precision.
    assert_terms_close(first_step.train, expected, rel=1e-2)


def test_a_smaller_last_batch_counts_as_many_images_as_it_has(digits):
    """1497 = 1000 + 497: the last record is of 497 images, and the model hardly moves."""
    _, records = train_all(digits, config=replace(TRAINING, epochs=1, batch_size=1000, learning_rate=1e-9))
    assert records[-1].train.recon_loss == pytest.approx(records[-1].held_out.recon_loss, rel=0.05)


@pytest.mark.parametrize("beta", [1.0, 20.0])
def test_the_first_step_is_adams(digits, beta):
    """Judge: torch's Adam on the gradient of the same loss, by torch.distributions."""
    model = VAE(replace(MODEL, activation="tanh"))
    records = train(model, replace(TRAINING, learning_rate=1e-2, beta=beta), *digits)
    next(records)
    fresh = copy.deepcopy(model)
    next(records)
    generator = torch.Generator().manual_seed(0)
    x = digits[0][torch.randperm(N_TRAIN, generator=generator)[:128]] / 255
    eps = torch.randn(128, 2, generator=generator)
    optimizer = torch.optim.Adam(fresh.parameters(), lr=1e-2)
    mu, logvar = fresh.encode(x)
    posterior = Normal(mu, torch.exp(0.5 * logvar))
    recon = -Bernoulli(logits=fresh.decode(mu + posterior.scale * eps), validate_args=False).log_prob(x)
    loss = recon.sum((1, 2, 3)) + beta * kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    loss.mean().backward()
    optimizer.step()
    # Adam's first step is the gradient's sign; where bfloat16 and float32 disagree on it, the gradient is nearly 0.
    moved = torch.cat([value.flatten() for value in model.parameters()])
    expected = torch.cat([value.flatten() for value in fresh.parameters()])
    assert (moved - expected).abs().lt(1e-4).float().mean() > 0.97


def test_the_loss_falls(digits):
    _, records = train_all(digits, config=replace(TRAINING, epochs=10, learning_rate=1e-2))
    assert records[-1].held_out.loss < records[0].held_out.loss - 1
    assert records[-1].train.loss < records[1].train.loss - 1


def test_beta_presses_the_kl_down(digits):
    free, pressed = (train_all(digits, config=replace(TRAINING, epochs=5, beta=beta))[1][-1] for beta in (0.0, 10.0))
    assert pressed.held_out.kl < 0.1 * free.held_out.kl


@pytest.mark.parametrize("model_config", [
    ModelConfig((1, 8, 8), widths=(), latent_dim=1),
    ModelConfig((1, 8, 8), "conv", (4,), (16,), 3, "relu", "gaussian"),
    ModelConfig((1, 8, 8), "conv", (4, 8), (), 3, "tanh"),
])  # fmt: skip
def test_every_kind_of_model_learns(digits, model_config):
    _, records = train_all(digits, model_config)
    assert records[-1].held_out.loss < records[0].held_out.loss


# Records


def test_records_tell_where_training_stands(digits):
    _, records = train_all(digits)
    steps = [record.step for record in records]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 2 * N_STEPS_PER_EPOCH)
    assert {record.n_steps for record in records} == {2 * N_STEPS_PER_EPOCH}
    assert records[0].train is None
    assert all(record.train for record in records[1:])
    assert [record.step for record in records if record.held_out] == [0, N_STEPS_PER_EPOCH, 2 * N_STEPS_PER_EPOCH]
    assert all(record.epoch == pytest.approx(record.step / N_STEPS_PER_EPOCH) for record in records)
    assert records[-1].seconds_left == 0
    assert all(record.images_per_second > 0 for record in records[1:])
    assert all(one.seconds < two.seconds for one, two in pairwise(records))


def test_a_long_run_keeps_its_history_small(digits, monkeypatch):
    monkeypatch.setattr("vae.train.MAX_RECORDS", 20)
    few = digits[0][:64], digits[1][:10]
    for epochs, batch_size in ((18, 4), (90, 32)):
        records = list(train(VAE(MODEL), replace(TRAINING, epochs=epochs, batch_size=batch_size), *few))
        assert 10 < len(records) <= 20 + 6  # those at steps 0, 1, 2, 4, 8, ... come on top
        assert records[-1].step == records[-1].n_steps
        assert records[-1].held_out


def test_live_held_out_terms_take_a_part_of_a_large_set(digits, monkeypatch):
    monkeypatch.setattr("vae.train.N_LIVE_HELD_OUT", 50)
    model, records = train_all(digits)
    assert_terms_close(records[-1].held_out, held_out_elbo(model, digits[1][:50]), rel=1e-5)


# Stopping


def test_stop_keeps_what_was_learnt(digits):
    model, records = VAE(MODEL), []

    def two_epochs_are_done() -> bool:
        return records[-1].step >= 2 * N_STEPS_PER_EPOCH

    for record in train(model, replace(TRAINING, epochs=1000), *digits, two_epochs_are_done):
        records.append(record)
    last = records[-1]
    assert last.step == 2 * N_STEPS_PER_EPOCH < last.n_steps
    assert_terms_close(last.held_out, held_out_elbo(model, digits[1]), rel=1e-5)
    assert last.held_out.loss < records[0].held_out.loss


def test_stop_before_the_first_step(digits):
    records = list(train(VAE(MODEL), TRAINING, *digits, lambda: True))
    assert [record.step for record in records] == [0, 0]


# What can't work


def test_a_batch_larger_than_the_data(digits):
    with pytest.raises(ConfigError, match="there are only 1497 training images"):
        train_all(digits, config=replace(TRAINING, batch_size=1498))


def test_a_batch_of_all_images(digits):
    _, records = train_all(digits, config=replace(TRAINING, batch_size=N_TRAIN))
    assert records[-1].n_steps == 2


def test_a_loss_that_is_no_number_ends_training(digits):
    with pytest.raises(TrainingError, match="use a lower learning rate, or a lower beta"):
        train_all(digits, config=replace(TRAINING, learning_rate=1.0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="use 'auto' or 'cpu'"):
        pick_device("cuda")
    assert pick_device("auto").type in ("cpu", "mps")


# The learning rate


@pytest.mark.parametrize(
    ("schedule", "judge"),
    [
        ("cosine", lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)),
        ("linear", lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 50)),
        ("constant", lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
    ],
)
def test_schedules_are_torchs(schedule, judge):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = judge(optimizer)
    for step in range(51):
        assert learning_rate_at(step / 50, schedule) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        scheduler.step()


def test_training_follows_the_schedule(digits, monkeypatch):
    """With the learning rate at 0 from the second step on, the weights stand still from there."""
    monkeypatch.setattr("vae.train.learning_rate_at", lambda progress, _schedule: 1.0 if progress == 0 else 0.0)
    records = train(model := VAE(MODEL), replace(TRAINING, epochs=1), *digits)
    weights = [copy.deepcopy(model.state_dict()) for _ in records]
    assert not torch.equal(weights[0]["encoder.1.weight"], weights[1]["encoder.1.weight"])
    for later in weights[2:]:
        assert torch.equal(later["encoder.1.weight"], weights[1]["encoder.1.weight"])


def test_fast_arithmetic_is_over_when_it_ends():
    def tiny() -> float:
        return torch.tensor([1e-40]).mul(1.0).item()

    before = torch.get_float32_matmul_precision()
    with fast_arithmetic():
        assert tiny() == 0
    assert tiny() > 0
    assert torch.get_float32_matmul_precision() == before


def test_bfloat16_features_give_float32_codes_and_logits_near_the_exact_ones():
    model = VAE(ModelConfig((1, 8, 8), "conv", (4, 8), (16,), 3))
    model.init_weights(torch.full((1, 8, 8), 0.3), torch.Generator().manual_seed(0))
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    mu, logits = model.encode(x)[0], model.decode(model.encode(x)[0])
    model.in_bfloat16 = True
    rough_mu, rough_logits = model.encode(x)[0], model.decode(mu)
    assert rough_mu.dtype == rough_logits.dtype == torch.float32
    assert not torch.equal(rough_mu, mu)
    torch.testing.assert_close(rough_mu, mu, atol=0.03, rtol=0.03)
    torch.testing.assert_close(rough_logits, logits, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_only_convolutions_are_in_bfloat16_and_only_in_training_steps(network, digits, monkeypatch):
    monkeypatch.setattr("vae.train._has_bfloat16", lambda _device: True)
    model = VAE(MODEL if network == "mlp" else ModelConfig((1, 8, 8), "conv", (4,), (16,)))
    in_steps = []
    model.decoder.register_forward_hook(lambda *_: in_steps.append((torch.is_grad_enabled(), model.in_bfloat16)))
    for _ in train(model, replace(TRAINING, epochs=1), *digits):
        assert not model.in_bfloat16
    assert set(in_steps) == {(True, network == "conv"), (False, False)}


# Taken up again


@pytest.mark.parametrize("n_records", [1, 2, 7, 12])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_training_that_is_taken_up_again_is_the_same(digits, network, n_records):
    """Whatever record it was kept at, also in the middle of an epoch: the same weights, bit for bit."""
    config = ModelConfig((1, 8, 8), "conv", (4, 8), (16,), 3) if network == "conv" else MODEL
    whole = Training(VAE(config), TRAINING, *digits)
    list(whole.records())
    first = Training(VAE(config), TRAINING, *digits)
    records = list(itertools.islice(first.records(), n_records))
    second = Training(VAE(config), replace(TRAINING, seed=99), *digits)  # nothing may come from a fresh start
    second.load_state(load_tensors(tensors_to_bytes(first.state())))
    rest = list(second.records())
    assert [record.step for record in records + rest] == sorted({record.step for record in records + rest})
    assert rest[-1].step == whole.n_steps
    assert rest[0].seconds > records[-1].seconds
    assert all(map(torch.equal, second.model.state_dict().values(), whole.model.state_dict().values()))


def test_beta_and_learning_rate_may_change_under_way(digits):
    training = Training(VAE(MODEL), replace(TRAINING, epochs=2, schedule="constant"), *digits)
    records = training.records()
    assert next(records).beta == TRAINING.beta
    training.beta, training.learning_rate = 7.0, 1e-4
    later = next(records)
    assert (later.beta, later.learning_rate) == (7.0, 1e-4)
    assert later.train.loss == pytest.approx(later.train.recon_loss + 7 * later.train.kl, rel=1e-5)


def test_every_step_has_a_record_if_asked(digits):
    training = Training(VAE(MODEL), replace(TRAINING, epochs=1), *digits)
    training.every_step = True
    assert [record.step for record in training.records()] == list(range(training.n_steps + 1))


def test_time_that_is_left_out_does_not_count(digits):
    training = Training(VAE(MODEL), replace(TRAINING, epochs=1), *digits)

    def pretend_to_wait() -> bool:
        training.leave_out(-1000.0 if training.step == 0 else 0.0)
        return False

    assert list(training.records(pretend_to_wait))[-1].seconds > 1000


# Schedules of beta


def share_at(epoch: float, **options: object) -> float:
    return beta_share_at(epoch, replace(TRAINING, epochs=8, **options))


def test_beta_schedules():
    assert [share_at(epoch) for epoch in (0, 3.5, 8)] == [1, 1, 1]
    assert [share_at(epoch, beta_schedule="warmup", warmup_epochs=4.0) for epoch in (0, 1, 3, 4, 8)] == [
        0, 0.25, 0.75, 1, 1
    ]  # fmt: skip
    cyclical = [share_at(epoch, beta_schedule="cyclical", n_cycles=2) for epoch in (0, 1, 2, 3.9, 4, 5, 6, 7)]
    assert cyclical == [0, 0.5, 1, 1, 0, 0.5, 1, 1]


def test_beta_warms_up_in_training(digits):
    config = replace(TRAINING, epochs=4, beta=2.0, beta_schedule="warmup", warmup_epochs=2.0)
    _, records = train_all(digits, config=config)
    by_epoch = {record.epoch: record for record in records}
    assert by_epoch[0].beta == 0
    assert 0.8 < by_epoch[1].beta < 1  # of its last step
    assert by_epoch[4].beta == 2


def test_free_bits_keep_dimensions_in_use(digits):
    """At a beta that presses all KL away, each dimension keeps about its free bits."""
    config = replace(TRAINING, epochs=20, beta=30.0, learning_rate=5e-3)
    pressed = train_all(digits, config=config)[1][-1].held_out
    free = train_all(digits, config=replace(config, free_bits=0.5))[1][-1].held_out
    assert pressed.kl < 0.2
    assert 0.8 < free.kl < 2.0
    assert free.loss >= free.recon_loss + 30 * 2 * 0.5
