"""The film of a training: what was filmed is what is read, whatever happens to the file in between."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vae import VAE, ModelConfig, data, film
from vae.checkpoint import SHIPPED_NAMES, SHIPPED_ROOT
from vae.film import FILM_FILE, Camera, Film, FilmWriter, Frame, example_indices, procrustes, read_film, read_live
from vae.latent import encode_images
from vae.pictures import decode_pictures

MODEL = ModelConfig((1, 8, 8), widths=(16,), latent_dim=5)


@pytest.fixture(scope="module")
def held_out() -> data.Images:
    return data.load("digits", "held_out")


def make_model(config: ModelConfig = MODEL, seed: int = 0) -> VAE:
    model = VAE(config)
    model.init_weights(torch.full(config.image_shape, 0.3), torch.Generator().manual_seed(seed))
    return model


def take(camera: Camera, step: int, model: VAE | None = None) -> Frame:
    frame = camera.take(model or make_model(seed=step), step, step / 10)
    assert frame
    return frame


def read(folder: Path) -> Film:
    content = read_film(folder)
    assert content
    return content


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_a_frame_shows_the_model(held_out, latent_dim):
    model = make_model(replace(MODEL, latent_dim=latent_dim))
    frame = take(Camera(held_out), 7, model)
    mu, logvar = encode_images(model, held_out.images)
    posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(frame.kl_per_dim, kl.mean(0))
    assert torch.equal(frame.active, mu.var(0) > 0.01)
    way_back = frame.origin + frame.points @ frame.axes
    if latent_dim <= 2:
        torch.testing.assert_close(way_back, mu)
    else:
        torch.testing.assert_close((way_back - frame.origin) @ frame.axes.T, frame.points)  # the axes are orthonormal


def test_a_sheet_holds_reconstructions_and_samples(held_out):
    from io import BytesIO

    import numpy as np
    from PIL import Image

    model = make_model()
    camera = Camera(held_out)
    frame = take(camera, 0, model)
    sheet = np.asarray(Image.open(BytesIO(frame.sheet)))
    assert sheet.shape == (5 * 9 - 1, 10 * 9 - 1)
    mu, _ = encode_images(model, held_out.images[camera.examples])
    eps = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([decode_pictures(model, mu), decode_pictures(model, eps)])
    for place in (0, 9, 10, 49):
        top, left = place // 10 * 9, place % 10 * 9
        assert np.array_equal(sheet[top : top + 8, left : left + 8], expected[place, 0].numpy())
    assert held_out.labels[camera.examples].tolist() == list(range(10))


def test_examples_are_one_of_each_class_and_then_the_first():
    assert example_indices(torch.tensor([2, 2, 2, 0, 1, 2])).tolist() == [3, 4, 0, 1, 2, 5]
    assert len(example_indices(torch.zeros(300, dtype=torch.long))) == 10


def test_filming_leaves_the_global_generator_alone(held_out):
    model, before = make_model(), torch.get_rng_state()
    take(Camera(held_out), 0, model)
    assert torch.equal(torch.get_rng_state(), before)


def test_codes_that_are_no_numbers_are_not_filmed(held_out):
    model = make_model()
    model.encoder[-1].bias.data[0] = torch.nan
    assert Camera(held_out).take(model, 0, 0.0) is None


def test_procrustes_undoes_a_turn():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(50, 2, generator=generator)
    turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]])  # with a reflection
    torch.testing.assert_close(procrustes(points @ turn, points), turn.T)
    # SciPy's judgement.
    from scipy.linalg import orthogonal_procrustes

    target = torch.randn(50, 2, generator=generator)
    expected, _ = orthogonal_procrustes(points.numpy(), target.numpy())
    torch.testing.assert_close(procrustes(points, target), torch.from_numpy(expected))


def test_the_plane_does_not_flip_between_frames(held_out):
    """The same model, its latent space turned by a right angle: on film nothing moves."""
    camera = Camera(held_out)
    first = take(camera, 0, make_model())
    turned = make_model()
    last = turned.encoder[-1]
    order = [1, 2, 3, 4, 0]
    last.weight.data[:5] = -last.weight.data[:5][order]
    last.bias.data[:5] = -last.bias.data[:5][order]
    second = take(camera, 1, turned)
    torch.testing.assert_close(second.points, first.points, atol=1e-4, rtol=0)


def test_what_is_written_is_read(held_out, tmp_path):
    camera = Camera(held_out)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    frames = [take(camera, step) for step in range(5)]
    for frame in frames:
        writer.add(frame)
    writer.add(frames[-1])  # once is enough
    film = read(tmp_path)
    assert torch.equal(film.still.labels, held_out.labels)
    assert [frame.step for frame in film.frames] == [0, 1, 2, 3, 4]
    for kept, frame in zip(film.frames, frames, strict=True):
        assert (kept.epoch, kept.sheet) == (frame.epoch, frame.sheet)
        torch.testing.assert_close(kept.points, frame.points, atol=2e-3, rtol=1e-3)  # float16
        for name in ("origin", "axes", "kl_per_dim", "active"):
            assert torch.equal(getattr(kept, name), getattr(frame, name))


def test_a_long_film_grows_thin_and_keeps_both_ends(held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    camera = Camera(held_out)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    for step in range(30):
        writer.add(take(camera, step))
    steps = [frame.step for frame in read(tmp_path).frames]
    assert len(steps) <= 8
    assert (steps[0], steps[-1]) == (0, 29)
    assert writer.stride > 1
    assert (tmp_path / FILM_FILE).stat().st_size == writer.size


def test_a_film_has_a_largest_size(held_out, tmp_path, monkeypatch):
    camera = Camera(held_out)
    monkeypatch.setattr(film, "MAX_FILM_BYTES", 30_000)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    for step in range(30):
        writer.add(take(camera, step))
    assert (tmp_path / FILM_FILE).stat().st_size < 30_000
    assert len(read(tmp_path).frames) > 2


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_film_that_was_cut_short_ends_earlier_and_goes_on_whole(held_out, tmp_path, cut):
    camera = Camera(held_out)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    for step in range(4):
        writer.add(take(camera, step))
    path = tmp_path / FILM_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    steps = [frame.step for frame in read(tmp_path).frames]
    assert steps in ([0, 1, 2], [0, 1])
    again = FilmWriter(tmp_path, camera.still(), 1)
    again.add(take(camera, 9))
    assert [frame.step for frame in read(tmp_path).frames] == [0, 1, 9]


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, bytes(1000), b"\x08\0\0\0" + bytes(4) + b"12345678"])
def test_what_is_no_film_is_none(tmp_path, content):
    assert read_film(tmp_path) is None
    (tmp_path / FILM_FILE).write_bytes(content)
    assert read_film(tmp_path) is None


def test_one_changed_byte_ends_the_film(held_out, tmp_path):
    camera = Camera(held_out)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    for step in range(3):
        writer.add(take(camera, step))
    content = bytearray((tmp_path / FILM_FILE).read_bytes())
    content[-200] ^= 1
    (tmp_path / FILM_FILE).write_bytes(content)
    assert [frame.step for frame in read(tmp_path).frames] == [0, 1]


@pytest.mark.parametrize("config", [MODEL, ModelConfig((1, 8, 8), "conv", (4, 8), (16,), 2)])
def test_the_live_view_decodes_as_the_model_does(held_out, tmp_path, config):
    model, camera = make_model(config), Camera(held_out)
    if config.network == "conv":
        model.to(memory_format=torch.channels_last)  # as in training
    frame = take(camera, 3, model)
    film.write_live(tmp_path, camera.still(), frame, model.decoder)
    live = read_live(tmp_path, config)
    assert live
    assert live.frame.step == 3
    z = torch.randn(4, config.latent_dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(live.decoder(z), model.decoder(z), atol=2e-2, rtol=2e-2)  # through float16
    assert read_live(tmp_path, replace(config, latent_dim=7)) is None  # of another model
    (tmp_path / "live.safetensors").write_bytes(b"")
    assert read_live(tmp_path, config) is None


def test_a_live_view_that_can_not_be_written_leaves_nothing_behind(held_out, tmp_path, monkeypatch):
    model, camera = make_model(), Camera(held_out)
    frame = take(camera, 3, model)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(film.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        film.write_live(tmp_path, camera.still(), frame, model.decoder)
    assert list(tmp_path.iterdir()) == []


def test_a_film_can_be_published_without_the_images(held_out, tmp_path):
    camera = Camera(held_out)
    writer = FilmWriter(tmp_path, camera.still(), -1)
    writer.add(take(camera, 4))
    film.leave_out_examples(tmp_path)
    published = read(tmp_path)
    assert published.still.examples == b""
    assert [frame.step for frame in published.frames] == [4]
    assert torch.equal(published.still.labels, held_out.labels)


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_no_image_of_a_data_set_ships(name):
    content = read(SHIPPED_ROOT / name)
    assert content.still.examples == b""
