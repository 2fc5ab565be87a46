"""What the map shows, in sentences that are true of the model on screen."""

from __future__ import annotations

import streamlit as st

from pages.ui.models import OpenModel, project
from vae.checkpoint import CheckpointError, find, read_metrics
from vae.data import dataset_info


def explain_map(opened: OpenModel, kind: str) -> None:
    """The model's figures, then how to read this projection."""
    _show_figures(opened)
    with st.expander("How to read this map", expanded=True):
        st.markdown(_reading(opened, kind))


def _show_figures(opened: OpenModel) -> None:
    try:
        metrics = read_metrics(find(opened.name))
    except CheckpointError:
        return
    figures = {
        "Held-out ELBO": (metrics.elbo, "−(reconstruction + KL): a lower bound on log p(x); higher is better."),
        "Reconstruction": (metrics.recon_loss, "−log p(x|z), summed over pixels: what the picture misses."),
        "KL": (metrics.kl, "KL(q(z|x) ‖ p(z)), summed over latent dimensions: what the code tells of the image."),
    }
    columns = st.columns(len(figures) + 1)
    for column, (label, (value, help_text)) in zip(columns, figures.items(), strict=False):
        column.metric(
            f"{label}, nats", f"{value:.2f}", help=f"{help_text} Nats per image, mean over {metrics.n_images:,} images."
        )
    columns[-1].metric("Held-out images", f"{metrics.n_images:,}", help="Never trained on.")


def _reading(opened: OpenModel, kind: str) -> str:
    n, n_dims = len(opened.latents.mu), opened.config.latent_dim
    title = dataset_info(opened.training.dataset).title
    points = (
        f"The {n:,} points are held-out images of {title}. The encoder answers each image with a normal distribution "
        "q(z|x); the point is its mean mu."
    )
    if kind == "z" and n_dims == 2:
        pull = (
            "to which the KL term pulls all codes"
            if opened.training.beta
            else "to which nothing pulled the codes, for β was 0"
        )
        return (
            f"{points} The axes are z itself: what you click is what the decoder gets, nothing is lost in between. "
            f"The dashed circles are 1, 2 and 3 standard deviations of the prior N(0, I), {pull}; far from every point "
            "the decoder was never trained, and what it draws there means little."
        )
    if kind == "z":
        return f"{points} This model has one latent dimension: left and right is z; up and down is chance."
    if kind == "pca":
        share = project(opened, kind).explained_variance
        return (
            f"{points} z has {n_dims} dimensions; the plane is that of the two directions in which mu varies most, and "
            f"shows **{share:.0%}** of its variance. A click decodes exactly the z on this plane; the other directions "
            "stay at their mean, so a click on a point need not give that image."
        )
    return (
        f"{points} t-SNE lays {n_dims} dimensions out so that near neighbours stay near; it keeps no distances between "
        "far groups, and sizes and gaps mean little. It **has no inverse**: a click takes the nearest encoded image "
        "and decodes its z."
    )
