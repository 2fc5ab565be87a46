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


def save_button(png: bytes, file_name: str, key: str, label: str = "Save as PNG") -> None:
    st.download_button(label, png, file_name, "image/png", key=key, on_click="ignore", icon=":material/download:")
