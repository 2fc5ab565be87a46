"""What the map shows, in sentences that are true of the model on screen."""

from __future__ import annotations

import math

import streamlit as st

from pages.ui.latent_map import axis_name
from pages.ui.models import MapChoice, OpenModel, held_out_trust, map_latents, project
from vae.checkpoint import CheckpointError, find, read_metrics
from vae.config import DISTANCES
from vae.data import dataset_info

CODES = {
    "gaussian": "The encoder answers each image with a normal distribution q(z|x); the point is its mean mu.",
    "point": "The encoder answers each image with one code, the point; it has no spread, so there is no posterior.",
    "codebook": "The encoder answers each image with a place in latent space, the point; the decoder gets the symbols "
    "of the codebook that lie nearest. There is no spread, so there is no posterior.",
}
_BUT_POSTERIOR = "With Posterior on, it takes the nearest image and decodes that one's z."


def explain_map(opened: OpenModel, choice: MapChoice) -> None:
    """The model's figures, then how to read this projection."""
    _show_figures(opened, choice)
    with st.expander("How to read this map", expanded=True):
        st.markdown(_reading(opened, choice))
        st.markdown(_layers(opened, choice))


def _show_figures(opened: OpenModel, choice: MapChoice) -> None:
    figures = {}
    try:
        metrics = read_metrics(find(opened.name))
    except CheckpointError:
        pass
    else:
        over = f"Nats per image, mean over {metrics.n_images:,} held-out images."
        if metrics.elbo is not None:
            figures["Held-out ELBO, nats"] = (
                f"{metrics.elbo:.2f}",
                f"−(reconstruction + KL): a lower bound on log p({'x|class' if opened.told is not None else 'x'}); "
                f"higher is better. {over}",
            )
        figures["Reconstruction, nats"] = (
            f"{metrics.recon_loss:.2f}",
            f"−log p(x|z), summed over pixels: what the picture misses. {over}",
        )
        if metrics.kl is not None:
            figures["KL, nats"] = (
                f"{metrics.kl:.2f}",
                "KL(q(z|x) ‖ p(z)), summed over latent dimensions. On average, the code tells at most so much of its "
                f"image. {over}",
            )
    trust = held_out_trust(opened, choice)
    figures["Trustworthiness of the map"] = (
        "–" if math.isnan(trust) else f"{trust:.3f}",
        "Whether those near each other on the map are near in latent space: 1 if each image's five nearest on the map "
        "are among its five nearest there, about 0.5 by chance (Venna & Kaski 2001). Held-out images.",
    )
    for column, (label, (value, help_text)) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(label, value, help=help_text)


def _reading(opened: OpenModel, choice: MapChoice) -> str:
    n_dims = opened.config.latent_dim
    title = dataset_info(opened.training.dataset).title
    n = len(map_latents(opened, choice).mu)
    which = "held-out images" if choice.images == "held_out" else "images, held out and trained on,"
    points = f"The {n:,} points are {which} of {title}. {CODES[opened.config.latent]}{_told(opened)}"
    but_posterior = _BUT_POSTERIOR if opened.has_spread else ""
    if choice.kind == "z":
        return f"{points} {_reading_z(opened, n_dims, but_posterior)}"
    if choice.kind == "pca":
        share = project(opened, choice).explained_variance
        symbols = ", by the nearest symbols" if opened.config.latent == "codebook" else ""
        return (
            f"{points} z has {n_dims} dimensions; the plane is that of the two directions in which mu varies most, and "
            f"shows **{share:.0%}** of its variance. A click decodes exactly the z on this plane{symbols}; the other "
            f"directions stay at their mean, so a click on a point need not give that image. {but_posterior}"
        )
    if choice.kind == "dims":
        across, up = map(axis_name, choice.dims)
        held = "at 0" if choice.hold is None else f"at those of held-out image {choice.hold:,}"
        return (
            f"{points} Of its {n_dims} dimensions the map shows {across} and {up} and hides the others. What is "
            f"decoded under the pointer has these two, and holds the others {held}: so a click on a point need not "
            f"give that image. {but_posterior}"
        )
    what = {
        "tsne": "t-SNE lays {n} dimensions out so that near neighbours stay near; it keeps no distances between far "
        "groups, and sizes and gaps mean little.",
        "umap": "UMAP lays {n} dimensions out by the graph of nearest neighbours; it keeps no distances between far "
        "groups, and sizes and gaps mean little.",
    }[choice.kind].format(n=n_dims)
    return f"{points} {what} It **has no inverse**: pointer and click take the nearest encoded image and decode its z."


def _told(opened: OpenModel) -> str:
    if opened.told is None:
        return ""
    return (
        f" It was told each image's class, and so is the decoder: under the pointer it draws class "
        f"**{opened.class_names[opened.told]}**, as chosen above."
    )


def _reading_z(opened: OpenModel, n_dims: int, but_posterior: str) -> str:
    if n_dims == 1:
        return "This model has one latent dimension: left and right is z; up and down is chance."
    exact = "The axes are z itself: what you click is what the decoder gets, nothing is lost in between."
    if opened.config.latent == "codebook":
        exact = (
            "The axes are what the encoder gives; the decoder takes the nearest symbols, so pictures change in steps."
        )
    if not opened.has_prior:
        return f"{exact} Nothing pulled the codes to a prior; where none lies, the decoder was never asked."
    objective = opened.training.objective
    what_pulls = "the KL term"
    if objective in DISTANCES:
        what_pulls = "the distance from the prior in the loss"
    if objective == "iwae":
        what_pulls = "the bound"
    pull = f"to which {what_pulls} pulls all codes"
    if not opened.training.beta and objective != "tcvae":  # whose KL weighs 1 all the same
        pull = "to which nothing pulled, for β was 0"
    return (
        f"{exact} {but_posterior} "
        f"The dashed circles are 1, 2 and 3 standard deviations of the prior N(0, I), {pull}; far from every point "
        "the decoder was never trained, and what it draws there means little."
    )


def _layers(opened: OpenModel, choice: MapChoice) -> str:
    """What the layers mean that this map has; see layersFor in controls.js."""
    n_dims, invertible = opened.config.latent_dim, project(opened, choice).invertible
    lines = []
    if invertible:
        lines.append("**Pictures**: what the model decodes all over the plane, finer as you zoom in.")
    where = "on the map, for spots here have no z" if not invertible else "in latent space, by the z of the spot"
    if len(opened.class_names) > 1:
        lines.append(
            f"**Class regions**: the class that most of the 15 nearest codes have, {where}; the paler, the less they "
            "agree; nothing far from all codes."
        )
    if invertible and n_dims > 1:
        lines.append(
            "**Density**: three bands that hold 39, 86 and 99 % of the points"
            + (
                ", as the circles at 1, 2 and 3 σ do of the prior. If the codes mu were distributed as the prior, each "
                "band would end at its circle; wide posteriors leave the bands inside."
                if opened.has_prior
                else "."
            )
        )
    if invertible and opened.has_prior:
        also = ""
        if n_dims > 2:
            also = " The ellipse is what this plane shows of it; the picture keeps the image's other dimensions."
        what = "lines" if n_dims == 1 else "circles"
        lines.append(f"**Prior**: N(0, I) as this plane cuts it, {what} at 1, 2 and 3 standard deviations about z = 0.")
    if invertible and not opened.has_prior:
        lines.append("No **Prior** to show: nothing pulled the codes to one.")
    if invertible and opened.has_spread:
        lines.append(
            "**Posterior**: click a point for its q(z|x), drawn to scale at 1 σ and 2 σ with 50 samples; drag the "
            f"ring to choose ε in z = mu + σ · ε and watch the picture follow.{also}"
        )
    return "\n".join(f"- {line}" for line in lines)
