"""Which plane a model's codes are shown in, and of which images; t-SNE and UMAP are computed when asked, in a process
of their own."""

from __future__ import annotations

from importlib.util import find_spec

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.ui.latent_map import axis_name, latent_map, moving_payload
from pages.ui.models import LINKED, MapChoice, OpenModel, forget_place, open_or_stop
from pages.ui.visitor import is_read_only
from vae import data, embeddings
from vae.checkpoint import CheckpointError
from vae.latent import EMBEDDINGS
from vae.runs import RunError

TITLES = {"pca": "PCA", "dims": "two dimensions", **EMBEDDINGS}
IMAGES = {"held_out": "held-out images", "all": "all images, also those trained on"}
DURATIONS = {"tsne": "about ten seconds", "umap": "half a minute or more"}
HOLDS = {"zero": "at 0", "image": "at the code of an image"}


def pick_projection(
    opened: OpenModel, place: DeltaGenerator, images_place: DeltaGenerator, height: int
) -> MapChoice | None:
    """z for one or two latent dimensions, else a projection by choice; None while there is nothing to decode yet.

    place, images_place: where one chooses the projection and the images; height: of the map, for points on their way.
    """
    if opened.config.latent_dim <= 2:
        return MapChoice("z", images=_pick_images(opened, place))
    kinds = [kind for kind in TITLES if kind != "umap" or _has_umap(opened)]
    kind = place.selectbox(
        "Projection", kinds, format_func=TITLES.get, key="projection", on_change=forget_place, **LINKED
    )
    if kind == "dims":
        return _pick_dims(opened)
    if kind in EMBEDDINGS:
        if kind in opened.latents.embeddings:
            return MapChoice(kind)
        _offer(opened, kind, height)
        return None
    return MapChoice(kind, images=_pick_images(opened, images_place))


def _has_umap(opened: OpenModel) -> bool:
    return "umap" in opened.latents.embeddings or find_spec("umap") is not None


def _pick_images(opened: OpenModel, place: DeltaGenerator) -> str:
    """Those trained on can be shown where the data set is on this machine."""
    if not data.is_present(opened.training.dataset) or not opened.latents.has_labels:
        return "held_out"
    # With other points PCA finds another plane, whose places are others; that of two dimensions stays what it is.
    other_plane = forget_place if opened.config.latent_dim > 2 else None
    return place.selectbox(
        "Points", list(IMAGES), format_func=IMAGES.get, key="images", on_change=other_plane, **LINKED
    )


def _pick_dims(opened: OpenModel) -> MapChoice:
    n_dims = opened.config.latent_dim
    across_place, up_place, hold_place, image_place = st.columns(4)

    def pick(place: DeltaGenerator, key: str, default: int) -> int:
        label = key.capitalize()
        return place.selectbox(
            label, range(n_dims), default, format_func=axis_name, key=key, on_change=forget_place, **LINKED
        )

    across, up = pick(across_place, "across", 0), pick(up_place, "up", 1)
    if across == up:
        st.warning("Across and up are the same dimension; choose two different ones.")
        st.stop()
    hold = hold_place.selectbox("The others", list(HOLDS), format_func=HOLDS.get, key="hold", **LINKED)
    index = None
    if hold == "image":
        last = len(opened.latents.mu) - 1
        st.session_state["image"] = min(st.session_state.get("image", 0), last)  # chosen with another model
        index = image_place.number_input("Image", 0, last, key="image", step=1, **LINKED)
    return MapChoice("dims", (across, up), index)


def _offer(opened: OpenModel, kind: str, height: int) -> None:
    title = EMBEDDINGS[kind]
    job = embeddings.embedding_status(opened.name)
    if job and job.state == "running":
        _watch(opened.name, kind, height)
        return
    if job and job.kind == kind:
        st.error(job.message)
    if is_read_only():
        st.info(f"This model has no {title}.")
        return
    st.info(f"This model has no {title} yet. It takes {DURATIONS[kind]} for 10,000 images, and is kept with the model.")
    if st.button(f"Compute the {title}", type="primary"):
        try:
            embeddings.start_embedding(opened.name, kind)
        except (CheckpointError, RunError) as error:
            st.error(str(error))
        else:
            st.rerun()


@st.fragment(run_every=0.5)
def _watch(name: str, kind: str, height: int) -> None:
    """What is being computed, until it has ended; the points on their way, if it is the projection asked for."""
    job = embeddings.embedding_status(name)
    if job is None or job.state != "running":
        st.rerun()
    st.progress(job.fraction, f"Computing the {EMBEDDINGS[job.kind]}; you may leave this page meanwhile.")
    points = embeddings.embedding_so_far(name)
    if points is not None and job.kind == kind:
        opened, choice = open_or_stop(name), MapChoice(kind)
        latent_map(moving_payload(opened, choice, height, points), f"map {name} {choice}")
