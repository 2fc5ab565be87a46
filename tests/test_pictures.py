"""Pictures: every pixel arrives, in its place."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vae import VAE, ModelConfig
from vae.checkpoint import SHIPPED_NAMES, SHIPPED_ROOT
from vae.families import FAMILIES
from vae.film import Film, Frame, Still, read_film
from vae.gif import LAST_SECONDS, MAP, SIZE, Captions, captions_of, film_gif, half_extent, map_pixels
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


# The film as a GIF

COLOURS = ("#3f90da", "#ffa90e", "#bd1f01")


def make_film(n_frames: int, n_points: int = 50, channels: int = 1, n_dims: int = 2) -> Film:
    def sheet(n: int) -> bytes:
        return png_bytes(grid(random_images(n, channels), 10), 1)

    frames = [
        Frame(
            step, step / 4, torch.randn(n_points, 2), torch.zeros(n_dims), torch.eye(2, n_dims), torch.rand(n_dims),
            torch.ones(n_dims, dtype=torch.bool), sheet(50),
        )
        for step in range(n_frames)
    ]  # fmt: skip
    return Film(Still(torch.arange(n_points) % 3, sheet(10)), frames)


def open_gif(film: Film, **options: float) -> Image.Image:
    return Image.open(io.BytesIO(film_gif(film, COLOURS, 100, **options)))


def durations(gif: Image.Image) -> list[int]:
    """Milliseconds of each frame."""
    lengths = []
    for i in range(gif.n_frames):
        gif.seek(i)
        lengths.append(gif.info["duration"])
    return lengths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n_dims", [1, 2, 512])
def test_the_film_as_a_gif_loops_takes_its_time_and_stays_at_the_end(channels, n_dims):
    """Judge: Pillow reads it back."""
    gif = open_gif(make_film(40, channels=channels, n_dims=n_dims), seconds=4)
    assert (gif.format, gif.size, gif.n_frames, gif.info["loop"]) == ("GIF", SIZE, 40, 0)
    assert durations(gif) == [100] * 39 + [1000 * LAST_SECONDS]


def test_a_film_of_few_frames_is_shorter_and_none_is_too_quick_for_a_browser():
    assert sum(durations(open_gif(make_film(3)))) < 3000
    assert min(durations(open_gif(make_film(20), seconds=0.1))) == 20
    assert open_gif(make_film(1)).size == SIZE
    with pytest.raises(ValueError, match="no frames"):
        film_gif(make_film(0), COLOURS, 100)


def test_each_point_of_a_gif_has_the_colour_of_its_class_at_its_place():
    film = make_film(2, n_points=3)
    places = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, -3.0]])
    film = Film(film.still, [replace(film.frames[0], points=places), replace(film.frames[1], points=-places)])
    left, top, side = MAP
    expected = {(left + side // 2, top + side // 2): COLOURS[0]}
    # 3.2 latent units are half a side; y goes up in latent space and down in a picture.
    expected[left + int(side * 6.2 / 6.4), top + int(side * 2.2 / 6.4)] = COLOURS[1]
    expected[left + int(side * 1.2 / 6.4), top + int(side * 6.2 / 6.4)] = COLOURS[2]
    gif = open_gif(film)
    picture = gif.convert("RGB")
    for place, colour in expected.items():
        assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel(place)) == colour
    gif.seek(1)
    moved = gif.convert("RGB").getpixel((left + int(side * 0.2 / 6.4), top + int(side * 4.2 / 6.4)))
    assert "#{:02x}{:02x}{:02x}".format(*moved) == COLOURS[1]


def test_a_gifs_map_is_one_square_that_leaves_out_the_farthest_points_alone():
    film = make_film(4, n_points=500)
    assert half_extent(film.frames) == pytest.approx(3.2, abs=0.4)
    far = [replace(frame, points=10 * frame.points) for frame in film.frames]
    extent = half_extent(far)
    inside = torch.cat([frame.points.abs().amax(1) <= extent for frame in far]).float().mean()
    assert inside == pytest.approx(0.994, abs=1e-3)
    left, top, side = MAP
    pixels = map_pixels(torch.tensor([[-1.0, 1.0], [2.0, 0.0]]) * extent, extent)
    assert pixels.tolist() == [[left, top], [left + int(1.5 * side), top + side // 2]]


def test_the_examples_of_a_gif_keep_their_greys():
    film = make_film(1)
    black_and_white = torch.tensor([0, 255] * 5, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 5, 7)
    film = Film(replace(film.still, examples=png_bytes(grid(black_and_white, 10), 1)), film.frames)
    row = np.asarray(open_gif(film).convert("L"))[70, 470:890]
    assert [row[21 + 42 * i] for i in range(10)] == [0, 255] * 5


def test_a_gif_that_would_be_too_large_leaves_out_frames_but_not_the_last(monkeypatch):
    film = make_film(9)
    monkeypatch.setattr("vae.gif.MAX_BYTES", len(film_gif(film, COLOURS, 100)) - 1)
    gif = open_gif(film)
    assert gif.n_frames == 5
    last = open_gif(Film(film.still, film.frames[-1:])).convert("RGB")
    gif.seek(4)
    box = (470, 100, 890, 350)  # the pictures
    assert gif.convert("RGB").crop(box).tobytes() == last.crop(box).tobytes()


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_the_film_of_a_shipped_model_is_a_gif_without_the_images(name):
    """Its examples were taken out, so the reconstructions stand alone."""
    film = read_film(SHIPPED_ROOT / name)
    assert not film.still.examples
    gif = Image.open(io.BytesIO(film_gif(replace(film, frames=film.frames[-3:]), COLOURS, 10)))
    assert gif.n_frames == 3


def test_a_gif_says_what_its_family_shows():
    plain, noisy = (captions_of(*FAMILIES[name].configs({"dataset": "digits"})) for name in ("vae", "denoising-ae"))
    assert plain == Captions()
    assert noisy.n_example_rows == 2
    assert "variance" in noisy.bars
    assert "prior" not in noisy.samples
    assert (plain.least_extent, noisy.least_extent) == (3.2, 0)  # without a prior, codes alone say how large the map is
