"""The model: encode, sample_z, decode. One class, whatever network, likelihood and kind of code it has."""

from dataclasses import replace
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from vae.config import LEAST_LOG_SCALE, ModelConfig
from vae.networks import Codebook, Dropout, for_class, init_weights, make_decoder, make_encoder
from vae.objectives import (
    LARGEST_LOGIT,
    bernoulli_nll,
    continuous_bernoulli_mean,
    continuous_bernoulli_nll,
    gaussian_nll,
    laplace_nll,
    limit,
)


class VAE(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="latentarium",
    tags=["vae", "variational-autoencoder"],
    license="mit",
):
    """An autoencoder, by default a variational one: prior N(0, I), posterior a diagonal Gaussian.

    x (B, C, H, W) in [0, 1] -> encode -> mu, logvar (B, D) -> sample_z -> z (B, D) -> decode -> logits (B, C, H, W)
    -> recon (B, C, H, W) in [0, 1].

    A code that is a point, as in a plain autoencoder, or is made of a codebook's symbols has no spread: logvar is -inf,
    and z is mu. Where labels are given, y (B,) int64 goes along to `encode` and `decode`; `for_class` gives the model
    of one class, which wants none.

    `VAE.from_pretrained(folder_or_hub_name)`, `save_pretrained` and `push_to_hub` are huggingface_hub's; a checkpoint's
    folder is in that layout. Weights load strictly and from safetensors alone.
    Source: Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114; with labels: Sohn et al. 2015, Learning
    structured output representation using deep conditional generative models.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config)
        self.decoder = make_decoder(config)
        if config.scale == "learned":
            self.log_sigma = nn.Parameter(torch.tensor(config.sigma).log())
        if config.labels == "predicted":
            self.classifier = nn.Linear(config.latent_dim, config.n_classes)
        self.in_bfloat16 = False  # of the layers' products, as in training; see `train.fast_arithmetic`

    def init_weights(self, mean_image: Tensor, generator: torch.Generator) -> None:
        """Fresh weights; the decoder starts from the mean image instead of from grey.

        mean_image: (C, H, W) in [0, 1], the mean of the training images.
        """
        init_weights(self, generator)
        logits = torch.logit(mean_image, eps=1e-3)
        # A dense output has a bias for each pixel, a convolutional one for each channel.
        bias = logits.flatten() if self.config.network == "mlp" else logits.mean((1, 2))
        if self.config.scale == "per_pixel":
            bias = torch.cat([bias, torch.full_like(bias, self.config.sigma).log()])
        *_, output_bias = self.decoder.parameters()
        output_bias.data.copy_(bias)

    def use_generator(self, generator: torch.Generator) -> None:
        """From which dropout draws while the model is in training mode."""
        for layer in self.modules():
            if isinstance(layer, Dropout):
                layer.generator = generator

    @property
    def codebook(self) -> Codebook:
        """Raises TypeError if the model has none."""
        if not isinstance(self.decoder[0], Codebook):
            raise TypeError("the model has no codebook")
        return self.decoder[0]

    @property
    def learned_sigma(self) -> Tensor:
        """The likelihood's one scale, (), in pixel units, of a model that learns it."""
        return limit(self.log_sigma, LEAST_LOG_SCALE, -LEAST_LOG_SCALE).exp()

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: (B, C, H, W) in [0, 1], y: (B,) classes where labels are given -> mu and logvar of q(z|x), (B, D) each."""
        layers = self.encoder
        if self.config.labels == "given":
            flatten = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
            x, layers = self._with_class(self._run(layers[: flatten + 1], x), y), layers[flatten + 1 :]
        code = self._run(layers, x)
        if self.config.latent != "gaussian":
            return code, torch.full_like(code, -torch.inf).detach()
        mu, logvar = code.chunk(2, dim=1)
        return mu, logvar

    def sample_z(self, mu: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
        """z = mu + std * eps with eps ~ N(0, I), so that gradients reach mu and logvar; mu where there is no spread.

        mu, logvar: (B, D). Returns (B, D). The generator must live on their device.
        """
        if self.config.latent != "gaussian":
            return mu
        eps = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        return mu + torch.exp(0.5 * logvar) * eps

    @torch.no_grad()
    def decoder_input(self, z: Tensor) -> Tensor:
        """z (B, D) -> what of it reaches the decoder: the nearest symbols where there is a codebook, else z itself."""
        return self.codebook.lookup(self.codebook.symbols(z)) if self.config.latent == "codebook" else z

    def class_logits(self, mu: Tensor) -> Tensor:
        """Codes (B, D) -> (B, n_classes), of a model that predicts labels; of a codebook, from the symbols."""
        return self.classifier(self.codebook(mu) if self.config.latent == "codebook" else mu)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z: (B, D), y: (B,) classes where labels are given -> the likelihood's parameters: logits (B, C, H, W), and
        where each pixel has a scale (B, 2 C, H, W), the logits first, then log sigma."""
        return self._run(self.decoder, self._with_class(z, y) if self.config.labels == "given" else z)

    def mean_image(self, logits: Tensor) -> Tensor:
        """What `decode` gave -> the mean of p(x|z), (..., C, H, W) in [0, 1]."""
        logits = logits[..., : self.config.image_shape[0], :, :]
        if self.config.likelihood == "continuous_bernoulli":
            return continuous_bernoulli_mean(logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT))
        return torch.sigmoid(logits)

    def recon(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z: (B, D) -> the mean of p(x|z), (B, C, H, W) in [0, 1]."""
        return self.mean_image(self.decode(z, y))

    def recon_loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """-log p(x|z) of each image under the model's likelihood, in nats, summed over pixels.

        logits: what `decode` gives, (..., C or 2 C, H, W); x: (..., C, H, W) in [0, 1], with as many or fewer images.
        Returns (...).
        """
        config = self.config
        if config.likelihood == "bernoulli":
            return bernoulli_nll(logits, x.expand_as(logits))
        if config.likelihood == "continuous_bernoulli":
            return continuous_bernoulli_nll(limit(logits, -LARGEST_LOGIT, LARGEST_LOGIT), x.expand_as(logits))
        sigma: float | Tensor = config.sigma
        if config.scale == "learned":
            sigma = self.learned_sigma
        elif config.scale == "per_pixel":
            sigma = limit(logits[..., config.image_shape[0] :, :, :], LEAST_LOG_SCALE, -LEAST_LOG_SCALE).exp()
        recon = self.mean_image(logits)
        nll = gaussian_nll if config.likelihood == "gaussian" else laplace_nll
        return nll(recon, x.expand_as(recon), sigma)

    def _run(self, layers: nn.Module, x: Tensor) -> Tensor:
        if not self.in_bfloat16:
            return layers(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return layers(x).to(x.dtype)

    def _with_class(self, features: Tensor, y: Tensor | None) -> Tensor:
        """Features (B, F) and one-hot classes side by side. Raises ValueError if there are no classes."""
        if y is None:
            raise ValueError("this model was trained with labels: give y, or take the model of one class, for_class(y)")
        return torch.cat([features, nn.functional.one_hot(y, self.config.n_classes).to(features.dtype)], dim=1)

    def for_class(self, label: int) -> "VAE":
        """The model that is told this class for every image: one without labels, in eval mode, its weights copied.

        Raises ValueError if the model takes no labels.
        """
        config = self.config
        if config.labels != "given":
            raise ValueError("this model is not told classes")
        plain = VAE(replace(config, labels="unused", n_classes=0))
        plain.load_state_dict({name: value for name, value in self.state_dict().items() if "coder" not in name}, False)
        plain.encoder = for_class(self.encoder, config.n_classes, label)
        plain.decoder = for_class(self.decoder, config.n_classes, label)
        return plain.eval().requires_grad_(False)

    @classmethod
    def _from_pretrained(cls, **kwargs: Any) -> "VAE":
        return super()._from_pretrained(**kwargs | {"strict": True})

    @classmethod
    def _load_as_pickle(cls, *_args: Any, **_kwargs: Any) -> Any:
        # huggingface_hub falls back to pickled weights where a repository has no safetensors.
        raise ValueError("This repository holds pickled weights only; ask its author for model.safetensors.")
