"""The latent map with what it decodes beside it: a fragment, so that a click reruns nothing else of the page."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from pages.ui.latent_map import Spot, decodes_in_browser, latent_map, map_payload
from pages.ui.models import OpenModel, held_out_images, open_or_stop, project
from pages.ui.pictures import save_button, show_picture, show_pictures
from vae.latent import nearest_codes
from vae.pictures import decode_pictures

DECODED_WIDTH = 252  # CSS pixels: nine for each pixel of a 28 × 28 image
N_NEIGHBOURS = 5


@st.fragment
def explore_map(name: str, kind: str, key: str, height: int = 520) -> None:
    """The map of a model in one projection (z, pca or tsne). It decodes under the pointer; a click pins a spot.

    The browser decodes by itself; a decoder that is too large for it decodes here, at each click.
    """
    opened = open_or_stop(name)
    projection = project(opened, kind)
    in_browser = decodes_in_browser(opened)
    map_place, picture_place = (st.container(), None) if in_browser else st.columns([0.72, 0.28], gap="medium")
    with map_place:
        clicked = latent_map(map_payload(opened, kind, height), f"{key} {name} {kind}")
    memory = f"spot {name} {kind} {opened.stamp}"
    if clicked:
        st.session_state[memory] = clicked
    spot = st.session_state.get(memory, Spot(0.0, 0.0))
    z, index = projection.to_z(spot.x, spot.y)
    if picture_place:
        with picture_place:
            _show_decoded(opened, z, index, key)
    _show_neighbours(opened, z)


def _show_decoded(opened: OpenModel, z: Tensor, index: int | None, key: str) -> None:
    picture = decode_pictures(opened.model, z.unsqueeze(0))[0]
    caption = (
        "decoded at the crosshair" if index is None else f"decoded from the z of image {index:,}, the nearest encoded"
    )
    png = show_picture(picture, "Decoded image", caption, round(DECODED_WIDTH / picture.shape[2]))
    st.caption("This decoder is too large to run under the pointer: it decodes on the server, at each click.")
    st.markdown(f"z = ({', '.join(f'{value:.2f}' for value in z.tolist())})")
    save_button(png, f"{opened.name}-decoded.png", f"save {key}")


def _show_neighbours(opened: OpenModel, z: Tensor) -> None:
    """The held-out images whose codes lie nearest to z, where the data set is present; else their reconstructions."""
    indices, distances = nearest_codes(opened.latents.mu, z, N_NEIGHBOURS)
    originals = held_out_images(opened.training.dataset)
    if originals is None:
        pictures = decode_pictures(opened.model, opened.latents.mu[indices])
        what = "held-out images, as the model reconstructs them (the data set is not on this machine),"
    else:
        pictures, what = originals[indices], "held-out images"
    classes = [opened.class_names[label] for label in opened.latents.labels[indices]]
    captions = [
        f"class {label}, at {distance:.2f}" for label, distance in zip(classes, distances.tolist(), strict=True)
    ]
    st.markdown(f"**Neighbours**: the {what} whose codes lie nearest to the pinned z, with their distance to it.")
    show_pictures(pictures, "Neighbour", captions)
