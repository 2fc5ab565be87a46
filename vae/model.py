"""The model: encode, sample_z, decode. One class, whatever network and likelihood it has."""

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from vae.config import ModelConfig
from vae.networks import init_weights, make_decoder, make_encoder


class VAE(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="latentarium",
    tags=["vae", "variational-autoencoder"],
    license="mit",
):
    """A variational autoencoder with prior N(0, I) and a diagonal Gaussian posterior.

    x (B, C, H, W) in [0, 1] -> encode -> mu, logvar (B, D) -> sample_z -> z (B, D) -> decode -> logits (B, C, H, W)
    -> recon (B, C, H, W) in [0, 1].

    `VAE.from_pretrained(folder_or_hub_name)`, `save_pretrained` and `push_to_hub` are huggingface_hub's; a checkpoint's
    folder is in that layout. Weights load strictly and from safetensors alone.
    Source: Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config)
        self.decoder = make_decoder(config)

    def init_weights(self, mean_image: Tensor, generator: torch.Generator) -> None:
        """Fresh weights; the decoder starts from the mean image instead of from grey.

        mean_image: (C, H, W) in [0, 1], the mean of the training images.
        """
        init_weights(self, generator)
        logits = torch.logit(mean_image, eps=1e-3)
        # A dense output has a bias for each pixel, a convolutional one for each channel.
        *_, output_bias = self.decoder.parameters()
        output_bias.data.copy_(logits.flatten() if self.config.network == "mlp" else logits.mean((1, 2)))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, C, H, W) in [0, 1] -> mu and logvar of q(z|x), (B, D) each."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def sample_z(self, mu: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
        """z = mu + std * eps with eps ~ N(0, I), so that gradients reach mu and logvar.

        mu, logvar: (B, D). Returns (B, D). The generator must live on their device.
        """
        eps = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        return mu + torch.exp(0.5 * logvar) * eps

    def decode(self, z: Tensor) -> Tensor:
        """z: (B, D) -> logits (B, C, H, W), the likelihood's parameters: sigmoid(logits) is the mean of p(x|z)."""
        return self.decoder(z)

    def recon(self, z: Tensor) -> Tensor:
        """z: (B, D) -> the mean of p(x|z), (B, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.decode(z))

    @classmethod
    def _from_pretrained(cls, **kwargs: Any) -> "VAE":
        return super()._from_pretrained(**kwargs | {"strict": True})

    @classmethod
    def _load_as_pickle(cls, *_args: Any, **_kwargs: Any) -> Any:
        # huggingface_hub falls back to pickled weights where a repository has no safetensors.
        raise ValueError("This repository holds pickled weights only; ask its author for model.safetensors.")
