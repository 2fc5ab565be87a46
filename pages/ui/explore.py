"""The latent map with what it decodes beside it: a fragment, so that a click reruns nothing else of the page."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from pages.ui.latent_map import Spot, latent_map, map_payload
from pages.ui.models import OpenModel, held_out_images, open_model, project
from pages.ui.pictures import save_button, show_picture
from vae.latent import nearest_code
from vae.pictures import decode_pictures

DECODED_WIDTH = 252  # CSS pixels: nine for each pixel of a 28 × 28 image


@st.fragment
def explore_map(name: str, kind: str, key: str, height: int = 520) -> None:
    """The map of a model in one projection (z, pca or tsne); a click anywhere shows the picture decoded there."""
    opened = open_model(name)
    projection, payload = project(opened, kind), map_payload(opened, kind, height)
    left, right = st.columns([0.72, 0.28], gap="medium")
    with left:
        clicked = latent_map(payload, f"{key} {name} {kind}")
    memory = f"spot {name} {kind}"
    if clicked:
        st.session_state[memory] = clicked
    spot = st.session_state.get(memory, Spot(0.0, 0.0))
    with right:
        _show_decoded(opened, kind, *projection.to_z(spot.x, spot.y), key)


def _show_decoded(opened: OpenModel, kind: str, z: Tensor, index: int | None, key: str) -> None:
    picture = decode_pictures(opened.model, z.unsqueeze(0))[0]
    nearest, distance = nearest_code(opened.latents.mu, z)
    label = opened.class_names[opened.latents.labels[nearest]]
    originals = held_out_images(opened.training.dataset)
    caption = "decoded at the crosshair" if index is None else f"decoded from the z of image {index:,}"
    png = show_picture(picture, "Decoded image", caption, round(DECODED_WIDTH / picture.shape[2]))
    st.markdown(f"**z** = ({', '.join(f'{value:.2f}' for value in z.tolist())})")
    if kind == "tsne":
        st.caption(f"Held-out image {index:,}, the encoded image nearest to your click: t-SNE has no way back to z.")
    else:
        st.caption(f"Distance to the nearest image's code: {distance:.2f}. Length of z: {float(z.norm()):.2f}.")
    if originals is not None:
        show_picture(originals[nearest], "Nearest held-out image", f"the nearest held-out image: {label}")
    else:
        recon = decode_pictures(opened.model, opened.latents.mu[nearest].unsqueeze(0))[0]
        show_picture(
            recon, "Nearest held-out image, reconstructed", f"the nearest held-out image, reconstructed: {label}"
        )
    save_button(png, f"{opened.name}-decoded.png", f"save {key}")
