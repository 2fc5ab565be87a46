"""Pictures on a page: with a name, alternative text, square pixels and a button that saves them."""

from __future__ import annotations

from html import escape

import streamlit as st
from torch import Tensor

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
