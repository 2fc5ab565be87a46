"""Which plane a model's codes are shown in; t-SNE is computed when asked, in a process of its own."""

from __future__ import annotations

import streamlit as st

from pages.ui.models import OpenModel
from vae import runs
from vae.checkpoint import CheckpointError
from vae.runs import RunError

TITLES = {"pca": "PCA", "tsne": "t-SNE"}


def pick_projection(opened: OpenModel) -> str | None:
    """z for one or two latent dimensions, else PCA or t-SNE by choice; None while there is nothing to show yet."""
    if opened.config.latent_dim <= 2:
        st.selectbox("Projection", ["none: the axes are z itself"], disabled=True, key="projection z")
        return "z"
    kind = st.selectbox(
        "Projection",
        list(TITLES),
        format_func=TITLES.get,
        key="projection",
        bind="query-params",
        persist_state="session",
    )
    if kind == "tsne" and opened.latents.tsne is None:
        _offer_tsne(opened.name)
        return None
    return kind


def _offer_tsne(name: str) -> None:
    job = runs.tsne_status(name)
    if job and job.state == "running":
        _watch_tsne(name)
        return
    if job:
        st.error(job.message)
    st.info("This model has no t-SNE yet. It takes about half a minute for 10,000 images, and is kept with the model.")
    if st.button("Compute the t-SNE", type="primary"):
        try:
            runs.start_tsne(name)
        except (CheckpointError, RunError) as error:
            st.error(str(error))
        else:
            st.rerun()


@st.fragment(run_every=0.5)
def _watch_tsne(name: str) -> None:
    job = runs.tsne_status(name)
    if job is None or job.state != "running":
        st.rerun()
    st.progress(job.fraction, "Computing the t-SNE; you may leave this page meanwhile.")
