"""Pictures: every pixel arrives, in its place."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vae import VAE, ModelConfig
from vae.pictures import data_uri, decode_pictures, enlarge, film_strip, grid, png_bytes


def random_images(n: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(256, (n, channels, 5, 7), dtype=torch.uint8)


def test_decoded_pictures_are_the_mean_in_256_greys():
    model = VAE(ModelConfig((1, 8, 8), widths=(16,), latent_dim=2)).eval()
    z = 3 * torch.randn(10, 2)
    pictures = decode_pictures(model, z)
    assert pictures.dtype == torch.uint8
    assert pictures.shape == (10, 1, 8, 8)
    expected = np.rint(255 / (1 + np.exp(-model.decode(z).detach().numpy())))
    assert np.abs(pictures.numpy() - expected).max() <= 1  # where rounding is a coin's toss
    assert (pictures.numpy() == expected).mean() > 0.99


def test_the_full_range_of_greys_is_used():
    model = VAE(ModelConfig((1, 8, 8), widths=(16,), latent_dim=2)).eval()
    model.decoder[-2].bias.data.copy_(torch.linspace(-50, 50, 64))
    pictures = decode_pictures(model, torch.zeros(1, 2))
    assert (pictures.min(), pictures.max()) == (0, 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_png_holds_every_pixel(channels, scale):
    """Judge: Pillow reads it back, and NumPy enlarges."""
    image = random_images(1, channels)[0]
    read = np.asarray(Image.open(io.BytesIO(png_bytes(image, scale))))
    expected = image.permute(1, 2, 0).numpy()
    expected = np.kron(expected, np.ones((scale, scale, 1), np.uint8))
    assert np.array_equal(read.reshape(expected.shape), expected)
    assert Image.open(io.BytesIO(png_bytes(image))).mode == ("L" if channels == 1 else "RGB")


def test_a_small_picture_is_enlarged_to_be_seen_and_a_large_one_left():
    def size(side: int) -> tuple[int, int]:
        return Image.open(io.BytesIO(png_bytes(torch.zeros(1, side, side, dtype=torch.uint8)))).size

    assert size(28) == (140, 140)
    assert size(8) == (144, 144)
    assert size(256) == (256, 256)


def test_enlarging_keeps_pixels_square():
    image = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    assert enlarge(image, 2).tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "n_columns", "n_rows"), [(6, 3, 2), (7, 3, 3), (1, 1, 1), (4, 4, 1), (3, 1, 3)])
@pytest.mark.parametrize("gap", [0, 2])
def test_a_grid_goes_row_by_row(channels, n, n_columns, n_rows, gap):
    images = random_images(n, channels)
    sheet = grid(images, n_columns, gap, background=9)
    assert sheet.shape == (channels, n_rows * 5 + (n_rows - 1) * gap, n_columns * 7 + (n_columns - 1) * gap)
    rest = torch.ones(sheet.shape, dtype=torch.bool)
    for i, image in enumerate(images):
        row, column = divmod(i, n_columns)
        place = (
            slice(None),
            slice(row * (5 + gap), row * (5 + gap) + 5),
            slice(column * (7 + gap), column * (7 + gap) + 7),
        )
        assert torch.equal(sheet[place], image)
        rest[place] = False
    assert (sheet[rest] == 9).all()


def test_a_film_strip_is_one_row():
    images = random_images(5)
    assert torch.equal(film_strip(images, gap=2), grid(images, 5, gap=2))
    assert film_strip(images, gap=2).shape == (1, 5, 5 * 7 + 4 * 2)


def test_a_data_uri_holds_the_png():
    png = png_bytes(random_images(1)[0])
    kind, content = data_uri(png).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == png
