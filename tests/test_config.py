"""Settings: what can't work is turned away by name, what works survives JSON."""

import json
import math
from dataclasses import FrozenInstanceError, asdict

import pytest

from vae.config import ConfigError, ModelConfig, TrainConfig

MODEL = {"image_shape": (1, 28, 28)}
TRAINING = {"dataset": "digits"}
NO_NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, 10**400]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_shape", (28, 28)),
        ("image_shape", (2, 28, 28)),
        ("image_shape", (1, 3, 28)),
        ("image_shape", "28"),
        ("network", "transformer"),
        ("network", ["mlp"]),
        ("channels", (8,)),  # of an MLP
        ("widths", (0,)),
        ("widths", (64.0,)),
        ("widths", (64,) * 9),
        ("widths", None),
        ("latent_dim", 0),
        ("latent_dim", 513),
        ("latent_dim", True),
        ("activation", "GELU"),
        ("likelihood", None),
        ("sigma", 0),
        *(("sigma", value) for value in NO_NUMBERS),
    ],
)
def test_a_model_that_cannot_work_is_turned_away(field, value):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**MODEL | {field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


def test_dropout_without_a_layer_for_it_is_turned_away():
    with pytest.raises(ConfigError, match="no hidden dense layers") as caught:
        ModelConfig((1, 28, 28), widths=(), dropout=0.2)
    assert caught.value.field == "dropout"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", ""),
        ("dataset", None),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", -1e-3),
        *(("learning_rate", value) for value in NO_NUMBERS),
        ("schedule", "step"),
        ("beta", -1),
        ("beta", 1001),
        ("beta", math.nan),
        ("seed", -1),
        ("seed", 2**31),
        ("device", "tpu"),
        ("threads", -1),
        ("half", 1),
    ],
)
def test_a_training_that_cannot_work_is_turned_away(field, value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**TRAINING | {field: value})
    assert caught.value.field == field


def test_convolutions_must_halve_the_image_to_whole_pixels():
    ModelConfig((1, 28, 28), "conv", (8, 16))
    with pytest.raises(ConfigError, match="28 × 28 pixels can't be divided by 8; use fewer layers"):
        ModelConfig((1, 28, 28), "conv", (8, 16, 32))
    with pytest.raises(ConfigError, match="at least one"):
        ModelConfig((1, 28, 28), "conv")


def test_beta_may_be_0_an_autoencoder():
    assert TrainConfig("digits", beta=0).beta == 0


@pytest.mark.parametrize("config", [ModelConfig((1, 8, 8), "conv", (4,), (16,), 3), TrainConfig("mnist", half=True)])
def test_settings_survive_json(config):
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        TrainConfig("digits").seed = 1
