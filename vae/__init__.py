"""Latentarium's core: variational autoencoders, their training and their latent space. No user interface.

from vae import TrainConfig, ModelConfig, VAE, data, train
model = VAE(ModelConfig(image_shape=(1, 8, 8)))
images = data.load("digits", "train").images, data.load("digits", "held_out").images
for record in train.train(model, TrainConfig("digits"), *images):
    print(record)
"""

from vae.config import ConfigError, ModelConfig, TrainConfig
from vae.model import VAE

__all__ = ["VAE", "ConfigError", "ModelConfig", "TrainConfig"]
