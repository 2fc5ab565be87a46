"""Tensors -> pictures: uint8 (H, W, 3) arrays, grids and film strips of them, PNG bytes."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae.model import VAE

SHORT_SIDE = 140  # pixels that a single small picture is enlarged to, about; whole multiples keep pixels square


@torch.inference_mode()
def decode_pictures(model: VAE, z: Tensor, y: Tensor | None = None) -> Tensor:
    """z (B, D), classes y (B,) for a model that is told them -> uint8 (B, C, H, W): the mean of p(x|z)."""
    return to_uint8(model.recon(z, y))


def to_uint8(x: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8."""
    return x.mul(255).round().to(torch.uint8)


def grid(images: Tensor, n_columns: int, gap: int = 1, background: int = 128) -> Tensor:
    """uint8 (N, C, H, W) -> one uint8 (C, H', W') picture, row by row, `gap` pixels apart."""
    n, channels, height, width = images.shape
    n_rows = math.ceil(n / n_columns)
    sheet = torch.full(
        (channels, n_rows * (height + gap) - gap, n_columns * (width + gap) - gap), background, dtype=torch.uint8
    )
    for i, image in enumerate(images):
        top, left = (i // n_columns) * (height + gap), (i % n_columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def film_strip(images: Tensor, gap: int = 1) -> Tensor:
    """uint8 (N, C, H, W) -> one uint8 (C, H, W') picture, side by side."""
    return grid(images, len(images), gap)


def enlarge(image: Tensor, scale: int) -> Tensor:
    """uint8 (C, H, W) -> (C, scale H, scale W) with square pixels."""
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def png_bytes(image: Tensor, scale: int | None = None) -> bytes:
    """uint8 (C, H, W) -> PNG. scale: whole number; None enlarges to about SHORT_SIDE."""
    if scale is None:
        scale = max(1, round(SHORT_SIDE / min(image.shape[1:])))
    array = enlarge(image, scale).permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        array = array[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """PNG bytes as an address that an <img> can show."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
