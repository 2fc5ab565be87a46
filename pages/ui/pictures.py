"""Pictures on a page: with a name, alternative text, square pixels and a button that saves them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape

import streamlit as st
from torch import Tensor

from pages.ui.latent_map import CLASS_COLOURS
from vae import data
from vae.checkpoint import CheckpointError, find, read_config
from vae.film import Camera, Film, read_film
from vae.gif import captions_of, film_gif
from vae.pictures import data_uri, png_bytes


def show_picture(image: Tensor, name: str, caption: str = "", scale: int | None = None, wide: bool = False) -> bytes:
    """Shows a uint8 (C, H, W) picture under an accessible name; returns its PNG bytes.

    wide: a strip, which scrolls sideways on a narrow screen.
    """
    png = png_bytes(image, scale)
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "latentarium-picture latentarium-strip" if wide else "latentarium-picture"
    style = ' style="max-width:none"' if wide else ""
    img = f'<img src="{data_uri(png)}" alt="{escape(name)}" aria-label="{escape(name)}"{style}>'
    st.html(f'<figure class="{kind}">{img}{note}</figure>')
    return png


def show_pictures(images: Tensor, name: str, captions: list[str]) -> None:
    """Shows uint8 (N, C, H, W) pictures in a row that wraps, each with its caption."""
    figures = (
        f'<figure class="latentarium-picture"><img src="{data_uri(png_bytes(image))}" alt="{escape(name)} {i + 1}: '
        f'{escape(caption)}" width="112"><figcaption>{escape(caption)}</figcaption></figure>'
        for i, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    st.html(f'<div class="latentarium-row">{"".join(figures)}</div>')


def save_button(png: bytes, file_name: str, key: str, label: str = "Save as PNG") -> None:
    st.download_button(label, png, file_name, "image/png", key=key, on_click="ignore", icon=":material/download:")


def save_film_button(name: str) -> None:
    """Offers the film of a run as a GIF, which is made once someone asks for it; nothing where there is no film."""
    try:
        film = read_film(find(name))
    except CheckpointError:
        return  # deleted meanwhile
    if film and film.frames:
        st.download_button(
            "Save the film as GIF", partial(_make_gif, name), f"{name}.gif", "image/gif", key=f"film of {name}",
            on_click="ignore", icon=":material/movie:",
        )  # fmt: skip


def film_of(name: str) -> Film | None:
    """The film of a run; one that came without the images it shows gets them where the data set is on this machine."""
    film, (_, training) = read_film(find(name)), read_config(find(name))
    if not film or film.still.examples or not data.is_present(training.dataset):
        return film
    still = Camera(data.load_targets(training.dataset, "held_out", training.targets), training).still()
    return replace(film, still=replace(film.still, examples=still.examples))


def _make_gif(name: str) -> bytes:
    """The film as it is when someone asks for it: of a run under way it grows."""
    film = film_of(name)
    if film is None:
        raise CheckpointError(f"The film of {name} is gone; load the page again.")
    model, training = read_config(find(name))
    return film_gif(film, CLASS_COLOURS, training.epochs, captions=captions_of(model, training))
