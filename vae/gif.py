"""A film -> an animated GIF for a slide: the map as it forms, what the model draws, the KL of each dimension."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from vae.config import ModelConfig, TrainConfig, has_prior
from vae.film import N_SAMPLES, SHEET_COLUMNS, Film, Frame

SIZE = (900, 460)  # width and height; these and all lengths below in pixels
MAP = (10, 10, 440)  # left, top and side
COLUMN = (470, 420)  # left and width of what stands to the right of the map
EPOCH_TOP, EPOCH_HEIGHT = 6, 32
EXAMPLES_TOP, SAMPLES_GAP = 60, 23
BARS_TOP, BARS_HEIGHT = 374, 76
POINT_RADIUS = 2.3
MIN_EXTENT = 3.2  # half the side of the map in latent units: where the prior has its points is always in view
SHARE_IN_VIEW = 0.994  # of all frames' points
LAST_SECONDS = 1.5  # that the last frame stays
MAX_FRAME_SECONDS = 0.4  # a short film is no slide show
MAX_BYTES = 6_000_000  # of the file; where it would be larger, every second frame goes
# The palette that all frames share: greys for lines, text and grey pictures, the classes' colours, those of the bars,
# and those of coloured pictures.
N_GREYS, MAX_CLASS_COLOURS, N_PICTURE_COLOURS = 32, 90, 128
BAR_COLOURS = ("#3b6fd4", "#b9bfc9")  # of dimensions that are in use, and of those that are not
INK, FAINT, LINE = 30, 110, 228  # greys of 0 to 255: of the epoch, of other text, of lines


@dataclass(frozen=True)
class Captions:
    """What the parts of a film's picture are."""

    examples: str = "held-out images and their reconstructions"
    n_example_rows: int = 1  # 2: the images, and the same corrupted
    samples: str = "samples from the prior"
    bars: str = "KL of each dimension, up to {most:.2g} nats"
    least_extent: float = MIN_EXTENT  # of the map: the prior's place, where there is one


def captions_of(model: ModelConfig, training: TrainConfig) -> Captions:
    """Those that are true of a model."""
    parts: dict[str, Any] = {}
    if training.corruption != "none":
        parts |= {"examples": "held-out images, corrupted, and what is made of those", "n_example_rows": 2}
    if not has_prior(model, training):
        parts |= {"samples": "samples from a Gaussian like the codes", "least_extent": 0.0}
    if model.latent != "gaussian":
        parts["bars"] = "variance of each code dimension, up to {most:.2g}"
    return Captions(**parts)


def film_gif(
    film: Film, class_colours: Sequence[str], n_epochs: float, seconds: float = 8, captions: Captions | None = None
) -> bytes:
    """The film as an animated GIF that loops, SIZE large.

    class_colours: of the points, "#rrggbb" by class; from the first again where there are more classes.
    n_epochs: of the whole training, to be read beside each frame's epoch.
    seconds: from the first frame to the last; a film of few frames is shorter. All stay equally long, in whole
    hundredths of a second, but for the last one, which stays for LAST_SECONDS.
    captions: those of a VAE by default.
    Raises ValueError if the film has no frames.
    """
    if not film.frames:
        raise ValueError("the film has no frames; film a training first")
    studio = _Studio(film, class_colours[:MAX_CLASS_COLOURS], captions or Captions())
    pictures = [studio.draw(frame, f"epoch {frame.epoch:.1f} of {n_epochs:g}") for frame in film.frames]
    # In milliseconds. Browsers take one of less than two hundredths for ten.
    length = max(20, 10 * round(100 * min(MAX_FRAME_SECONDS, seconds / len(pictures))))
    durations = [length] * (len(pictures) - 1) + [round(1000 * LAST_SECONDS)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    if buffer.tell() > MAX_BYTES and len(pictures) > 1:
        return film_gif(Film(film.still, film.frames[::-2][::-1]), class_colours, n_epochs, seconds, captions)
    return buffer.getvalue()


def half_extent(frames: Sequence[Frame], least: float = MIN_EXTENT) -> float:
    """Of the square around 0 that holds SHARE_IN_VIEW of all frames' points, in latent units; at least `least`."""
    reach = torch.cat([frame.points.abs().amax(1) for frame in frames]).numpy()
    return max(least, float(np.quantile(reach, SHARE_IN_VIEW)), 1e-6)


def map_pixels(points: Tensor, extent: float) -> np.ndarray:
    """points (N, 2) in latent units, y upwards -> pixels (N, 2) of the picture, x and y, y downwards.

    extent: half the side of the map in latent units. What is beyond it comes to lie outside MAP.
    """
    left, top, side = MAP
    share = (points.numpy() * (1, -1) / extent + 1) / 2
    return np.floor(np.clip(share, -1, 2) * side).astype(int) + np.array([left, top])


class _Studio:
    """What all frames of a film share: palette, scales, and the backdrop, on which nothing moves.

    Pictures are put together as palette indices, uint8 (height, width): no colour is looked for twice.
    """

    def __init__(self, film: Film, class_colours: Sequence[str], captions: Captions):
        self.captions = captions
        named = [ImageColor.getrgb(colour)[:3] for colour in (*class_colours, *BAR_COLOURS)]
        self.bar_colour = N_GREYS + len(class_colours)  # index of the first of BAR_COLOURS; the classes' are before it
        self.first_picture_colour = N_GREYS + len(named)
        self.colours = (N_GREYS + film.still.labels % len(class_colours)).numpy().astype(np.uint8)

        sheets = [_open(frame.sheet) for frame in film.frames]
        examples = _open(film.still.examples) if film.still.examples else None  # left out of a film that ships
        self.palette = np.linspace(0, 255, N_GREYS).round().astype(int).repeat(3).tolist()
        self.palette += [value for colour in named for value in colour]
        self.picture_colours: Image.Image | None = None  # a picture whose palette they are; None: all is grey
        if sheets[-1].mode == "RGB":
            shown = [*filter(None, [examples]), *sheets[:: math.ceil(len(sheets) / 8)]]
            self.picture_colours = _montage(shown).quantize(N_PICTURE_COLOURS)
            self.palette += self.picture_colours.getpalette() or []
        self.extent = half_extent(film.frames, self.captions.least_extent)
        kl = torch.cat([frame.kl_per_dim for frame in film.frames])
        self.full_bar = max(0.1, float(kl[kl.isfinite()].max()))  # nats

        left, width = COLUMN
        room = BARS_TOP - EXAMPLES_TOP - 2 * SAMPLES_GAP
        examples_height = examples.height if examples else 0
        self.scale = min(width / sheets[-1].width, room / (examples_height + sheets[-1].height))
        # Where the reconstructions end in the sheet, in its own pixels; rows lie a pixel apart.
        n_rows, height = captions.n_example_rows, examples_height
        if not examples:
            self.captions = replace(captions, examples="reconstructions of held-out images")
            n_rows, height = 1 + N_SAMPLES // SHEET_COLUMNS, sheets[-1].height
        self.sheet_row = (height + 1) // n_rows - 1
        self.recon_top = EXAMPLES_TOP + (self._scaled(examples_height) + 2 if examples else 0)
        self.samples_top = self.recon_top + self._scaled(self.sheet_row) + SAMPLES_GAP
        n_dims, n_active = film.frames[-1].active.shape[0], int(film.frames[-1].active.sum())
        self.bar_edges = left + np.linspace(0, min(width, 42 * n_dims), n_dims + 1).round().astype(int)
        self.backdrop = self._draw_backdrop(n_dims, n_active)
        if examples:
            self._put_picture(self.backdrop, examples, EXAMPLES_TOP)

    def draw(self, frame: Frame, line: str) -> Image.Image:
        canvas = self.backdrop.copy()
        self._draw_points(canvas, frame.points)
        self._draw_sheet(canvas, _open(frame.sheet))
        self._draw_bars(canvas, frame.kl_per_dim, frame.active)
        text = Image.new("L", (COLUMN[1], EPOCH_HEIGHT), 255)
        ImageDraw.Draw(text).text((0, 0), line, INK, ImageFont.load_default(24))
        _put(canvas, _grey_indices(text), EPOCH_TOP)
        picture = Image.fromarray(canvas)
        picture.putpalette(self.palette)  # makes the greys indices
        return picture

    def _draw_points(self, canvas: np.ndarray, points: Tensor) -> None:
        left, top, side = MAP
        reach = math.floor(POINT_RADIUS)
        pixels = map_pixels(points, self.extent)
        distance = pixels - (left, top)
        is_inside = ((distance > reach) & (distance < side - reach)).all(1)
        (x, y), colours = pixels[is_inside].T, self.colours[is_inside]
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if math.hypot(dx, dy) <= POINT_RADIUS:
                    canvas[y + dy, x + dx] = colours

    def _draw_sheet(self, canvas: np.ndarray, sheet: Image.Image) -> None:
        """The reconstructions below the examples, which stand on the backdrop; then the samples."""
        row = self.sheet_row
        self._put_picture(canvas, sheet.crop((0, 0, sheet.width, row)), self.recon_top)
        self._put_picture(canvas, sheet.crop((0, row + 1, sheet.width, sheet.height)), self.samples_top)

    def _put_picture(self, canvas: np.ndarray, picture: Image.Image, top: int) -> None:
        """Whole multiples first, then the mean over areas: pixels stay squares, of one size."""
        scale = math.ceil(self.scale)
        large = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)
        fitted = large.resize((self._scaled(picture.width), self._scaled(picture.height)), Image.Resampling.BOX)
        if self.picture_colours is None:
            _put(canvas, _grey_indices(fitted), top)
        else:
            indices = fitted.quantize(palette=self.picture_colours, dither=Image.Dither.NONE)
            _put(canvas, self.first_picture_colour + np.asarray(indices), top)

    def _scaled(self, length: int) -> int:
        return max(1, round(self.scale * length))

    def _draw_bars(self, canvas: np.ndarray, kl: Tensor, active: Tensor) -> None:
        bottom, edges = BARS_TOP + BARS_HEIGHT, self.bar_edges
        gap = 1 if edges[1] - edges[0] > 2 else 0
        heights = (kl / self.full_bar).clamp(0, 1).mul(BARS_HEIGHT).round().int().tolist()
        for i, (height, is_active) in enumerate(zip(heights, active.tolist(), strict=True)):
            canvas[bottom - max(1, height) : bottom, edges[i] : edges[i + 1] - gap] = self.bar_colour + (not is_active)

    def _draw_backdrop(self, n_dims: int, n_active: int) -> np.ndarray:
        picture = Image.new("L", SIZE, 255)
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
        left, top, side = MAP
        step = _tick(self.extent)
        n_steps = math.floor(self.extent / step)
        for value in (i * step for i in range(-n_steps, n_steps + 1)):
            place = round((value / self.extent + 1) / 2 * side)
            pen.line([left + place, top, left + place, top + side], LINE)
            pen.line([left, top + side - place, left + side, top + side - place], LINE)
            pen.text((left + place + 3, top + side - 3), f"{value:g}", FAINT, font, anchor="ls")
        pen.rectangle([left, top, left + side, top + side], outline=FAINT)
        column, _ = COLUMN
        titles = {
            EXAMPLES_TOP: self.captions.examples,
            self.samples_top: self.captions.samples,
            BARS_TOP: f"{self.captions.bars.format(most=self.full_bar)}; {n_active} of {n_dims} in use at the end",
        }
        for y, title in titles.items():
            pen.text((column, y - 5), title, FAINT, font, anchor="ls")
        return _grey_indices(picture)


def _tick(extent: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most five lines on either side of 0."""
    power = 10.0 ** math.floor(math.log10(extent / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if extent / (factor * power) < 6)


def _open(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _montage(pictures: Sequence[Image.Image]) -> Image.Image:
    """All of them in one, in RGB."""
    montage, top = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures))), 0
    for picture in pictures:
        montage.paste(picture, (0, top))
        top += picture.height
    return montage


def _grey_indices(picture: Image.Image) -> np.ndarray:
    """Mode L -> indices of the palette's greys."""
    return np.asarray(picture) // (256 // N_GREYS)


def _put(canvas: np.ndarray, indices: np.ndarray, top: int) -> None:
    """Into the column, at its left."""
    height, width = indices.shape
    canvas[top : top + height, COLUMN[0] : COLUMN[0] + width] = indices
