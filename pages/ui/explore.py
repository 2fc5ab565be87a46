"""The latent map with what belongs to it below: a fragment, so that a click reruns nothing else of the page."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from pages.ui.latent_map import Selection, Spot, answer, latent_map, map_payload
from pages.ui.models import (
    MapChoice,
    OpenModel,
    image_name,
    map_latents,
    open_or_stop,
    project,
    reconstructions,
    source_images,
)
from pages.ui.pictures import show_pictures
from pages.ui.selection import show_selection
from vae.latent import nearest_codes

N_NEIGHBOURS = 5


@st.fragment
def explore_map(name: str, choice: MapChoice, key: str, height: int = 520, tools: bool = False) -> None:
    """The map of a model: it decodes under the pointer, a click pins a spot, and an outline selects images.

    The browser decodes by itself; for a decoder that is too large for it, it asks here. tools: see `map_payload`.
    """
    opened = open_or_stop(name)
    key = f"{key} {name} {choice}"
    picks = latent_map(map_payload(opened, choice, height, tools), key)
    if picks.question:
        answer(opened, choice, picks.question, f"answer {key}")
    spot = _latest(f"spot {key} {opened.stamp}", picks.spot, Spot(0.0, 0.0))
    selection = _latest(f"selection {key} {opened.stamp}", picks.selection, Selection())
    if selection.outline:
        show_selection(opened, choice, selection)
    _show_neighbours(opened, choice, spot)


def _z_of(opened: OpenModel, choice: MapChoice, spot: Spot) -> Tensor:
    """The code of the image that a spot stands for, else the z that it decodes."""
    mu = map_latents(opened, choice).mu
    if spot.image is not None and 0 <= spot.image < len(mu):
        return mu[spot.image]
    return project(opened, choice).to_z(spot.x, spot.y)[0]


def _latest(memory: str, pick: Spot | Selection | None, default: Spot | Selection) -> Spot | Selection:
    """What was picked now, else what was picked last."""
    if pick is not None:
        st.session_state[memory] = pick
    return st.session_state.get(memory, default)


def _show_neighbours(opened: OpenModel, choice: MapChoice, spot: Spot) -> None:
    """The images whose codes lie nearest to a spot's z, where the data set is present; else their reconstructions."""
    if spot.what == "nothing":
        st.markdown("**Neighbours**: all classes are hidden, so there is no image whose neighbours to show.")
        return
    latents = map_latents(opened, choice)
    indices, distances = nearest_codes(latents.mu, _z_of(opened, choice, spot), N_NEIGHBOURS)
    if not len(indices):
        st.markdown("**Neighbours**: no code is a finite distance away from this z.")
        return
    originals = source_images(opened, choice.images)
    kind = "held-out images" if choice.images == "held_out" else "images"
    if originals is None:
        pictures = reconstructions(opened, latents.mu[indices], latents.labels[indices])
        what = f"{kind}, as the model reconstructs them (the data set is not on this machine),"
    else:
        pictures, what = originals[indices], kind
    captions = [
        f"{image_name(opened, index)}: class {opened.class_names[latents.labels[index]]}, at {distance:.2f}"
        for index, distance in zip(indices.tolist(), distances.tolist(), strict=True)
    ]
    whose = "the pinned z" if spot.what == "pin" else "the z at the crosshair"
    st.markdown(f"**Neighbours**: the {what} whose codes lie nearest to {whose}, with their distance to it.")
    show_pictures(pictures, "Neighbour", captions)
