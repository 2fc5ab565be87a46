"""The model: the way of an image through it, and out to disk and back."""

import pickle
from pathlib import Path

import huggingface_hub.hub_mixin
import pytest
import scipy.stats
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

from vae import VAE, ModelConfig
from vae.checkpoint import load_model

MLP = ModelConfig((1, 8, 8), widths=(16,), latent_dim=3)
CONV = ModelConfig((1, 8, 8), "conv", (4,), (16,), latent_dim=3)


def make_model(config: ModelConfig, seed: int = 0) -> VAE:
    model = VAE(config)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(torch.rand(config.image_shape, generator=generator), generator)
    return model.eval()


@pytest.mark.parametrize("config", [MLP, CONV])
def test_the_way_of_an_image(config):
    model, x = make_model(config), torch.rand(5, 1, 8, 8)
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (5, 3)
    z = model.sample_z(mu, logvar, torch.Generator().manual_seed(0))
    assert z.shape == (5, 3)
    recon = model.recon(z)
    assert recon.shape == x.shape
    assert ((recon >= 0) & (recon <= 1)).all()
    torch.testing.assert_close(recon, 1 / (1 + torch.exp(-model.decode(z))))


def test_mu_and_logvar_are_not_mixed_up():
    """The encoder's first D numbers are mu: with its last bias set, they come out as set."""
    model = make_model(MLP)
    model.encoder[-1].weight.data.zero_()
    model.encoder[-1].bias.data.copy_(torch.arange(6.0))
    mu, logvar = model.encode(torch.rand(2, 1, 8, 8))
    assert mu.tolist() == [[0, 1, 2]] * 2
    assert logvar.tolist() == [[3, 4, 5]] * 2


def test_z_is_drawn_from_the_posterior():
    """Judge: SciPy's Kolmogorov-Smirnov test against N(mu, exp(logvar)), and no correlation between dimensions."""
    mu, logvar = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([-3.0, 1.5, 0.0])
    z = make_model(MLP).sample_z(mu.expand(20_000, 3), logvar.expand(20_000, 3), torch.Generator().manual_seed(0))
    for column, mean, std in zip(z.T, mu, torch.exp(logvar / 2), strict=True):
        assert scipy.stats.kstest(column.numpy(), scipy.stats.norm(mean, std).cdf).pvalue > 0.01
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 0.03


def test_z_comes_from_the_generator_alone():
    model, mu, logvar = make_model(MLP), torch.zeros(4, 3), torch.zeros(4, 3)
    before = torch.get_rng_state()
    first, again, other = (model.sample_z(mu, logvar, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_reach_mu_and_logvar():
    """dz/dmu = 1 and dz/dlogvar = std eps / 2 = (z - mu) / 2."""
    mu, logvar = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    z = make_model(MLP).sample_z(mu, logvar, torch.Generator().manual_seed(0))
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(4, 3))
    torch.testing.assert_close(logvar.grad, (z - mu).detach() / 2)


def test_a_fresh_mlp_decodes_the_mean_image():
    mean_image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(0.01, 0.99)
    model = VAE(MLP)
    model.init_weights(mean_image, torch.Generator().manual_seed(0))
    # At z = 0 all that is left of the decoder is its last bias.
    torch.testing.assert_close(model.recon(torch.zeros(1, 3))[0], mean_image)


def test_a_fresh_convolutional_model_decodes_the_mean_grey():
    model = VAE(CONV)
    model.init_weights(torch.full((1, 8, 8), 0.2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.recon(torch.zeros(1, 3)), torch.full((1, 1, 8, 8), 0.2))


# Out to disk and back, in the layout of the Hugging Face Hub


@pytest.mark.parametrize("config", [MLP, CONV])
def test_save_pretrained_and_back(config, tmp_path):
    model = make_model(config)
    model.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    assert loaded.config == config
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_from_pretrained_opens_a_checkpoint_of_ours(small: Path):
    ours, theirs = load_model(small), VAE.from_pretrained(small)
    assert theirs.config == ours.config
    z = torch.randn(4, 2)
    assert torch.equal(theirs.decode(z), ours.decode(z))


def test_from_pretrained_is_strict(tmp_path):
    make_model(MLP).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.0.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"decoder\.0\.bias"):
        VAE.from_pretrained(tmp_path)


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused_unopened(tmp_path, monkeypatch):
    """A repository without safetensors: there huggingface_hub would open pytorch_model.bin."""
    make_model(MLP).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))

    def download(filename: str, **_: object) -> str:
        if not (tmp_path / filename).exists():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", download)
    with pytest.raises(ValueError, match="pickled weights"):
        VAE.from_pretrained("someone/their-vae")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        VAE.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()
