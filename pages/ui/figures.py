"""The figures of a model in groups, each with its meaning; they are measured in a process of their own."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from pages.ui.latent_map import axis_name
from pages.ui.models import OpenModel
from pages.ui.visitor import is_read_only
from vae import evaluations
from vae.checkpoint import CheckpointError
from vae.config import ConfigError
from vae.evaluate import N_COMPARED, N_MARGINAL, N_PROBED, N_SILHOUETTE
from vae.runs import RunError

SAMPLES = {0: "none", 100: "100: seconds", 1000: "1,000", 5000: "5,000, as in papers: minutes"}
# Name of the figure: title, format, what it says.
GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Likelihood, nats per image": {
        "elbo": ("ELBO", "{:.2f}", "−(reconstruction + KL), one z for each image: a lower bound on log p(x)."),
        "recon_loss": ("Reconstruction", "{:.2f}", "−log p(x|z), summed over pixels; lower is better."),
        "kl": (
            "KL",
            "{:.2f}",
            "KL(q(z|x) ‖ p(z)), summed over dimensions. On average, the code tells at most so much of its image.",
        ),
        "nll": (
            "−log p(x)",
            "{:.2f}",
            "By importance sampling with z ~ q(z|x) (Burda et al., arXiv:1509.00519, equation 8): too high on average, "
            "less so with more samples. ± is the standard error over the images. Papers report it for binarized "
            "images; grey values that count as probabilities have no density.",
        ),
        "bits_per_dim": ("Bits per pixel", "{:.4f}", 
            "−ELBO in bits, divided by the numbers of an image; below it, −log p(x). A code's length for binarized "
            "images alone; of a density it may be below 0.",
        ),
    },
    "What the code holds": {
        "active_units": (
            "Dimensions in use",
            "{}",
            "Those with Var(mu) > 0.01 over the images (Burda et al.); without a prior, above a hundredth of the "
            "greatest.",
        ),
        "mutual_information": (
            "Mutual information",
            "{:.2f}",
            "Of image and z under q: the part of the KL that tells images apart (Hoffman & Johnson 2016), from one z "
            f"of each of {N_MARGINAL:,} images at most. At most log of the number of images.",
        ),
        "marginal_kl": (
            "Marginal KL",
            "{:.2f}",
            "KL(q(z) ‖ p(z)), where q(z) is the mean of all posteriors: the rest of the KL, so at least the KL less "
            "the log of the number of images. 0 if the codes of all images together are distributed as the prior.",
        ),
        "knn_accuracy": (
            "5-NN accuracy",
            "{:.1%}",
            "Classes told by the five nearest codes of the images trained on (of a codebook: its symbols).",
        ),
        "probe_accuracy": (
            "Linear probe",
            "{:.1%}",
            f"Classes told by a logistic regression from the code, fitted to {N_PROBED:,} images trained on at most.",
        ),
        "silhouette": (
            "Silhouette",
            "{:.3f}",
            f"How much nearer a code lies to its class than to the next, −1 to 1; of {N_SILHOUETTE:,} images at most.",
        ),
        "symbols_in_use": ("Symbols in use", "{}", "Of the codebook, by any held-out image."),
        "symbol_perplexity": (
            "Perplexity",
            "{:.1f}",
            "e to the entropy of the symbols' shares: as many symbols, each used as often, would tell as much.",
        ),
        "mig": (
            "MIG",
            "{:.3f}",
            "Mutual information gap: whether each factor is in one dimension (Chen et al. 2018; of mu in 20 bins, "
            "where they draw from q(z|x)).",
        ),
        "disentanglement": ("Disentanglement", "{:.3f}", "DCI: whether each dimension tells one factor alone."),
        "completeness": ("Completeness", "{:.3f}", "DCI: whether each factor is told by one dimension alone."),
        "informativeness": ("Informativeness", "{:.3f}", "DCI: how well a random forest tells the factors."),
    },
    "Pictures and tasks": {
        "mse": ("Squared error", "{:.5f}", "Of decode(mu), mean over pixels between 0 and 1."),
        "ssim": ("SSIM", "{:.3f}", "Structural similarity of image and decode(mu), −1 to 1 (Wang et al. 2004)."),
        "sigma": ("σ of the likelihood", "{:.3f}", "Fixed or learned, in units of the pixels' range 0 to 1."),
        "optimal_sigma": (
            "Optimal σ",
            "{:.3f}",
            "Under which the images would be likeliest, given decode(mu): the root mean squared error "
            "(Rybkin et al., arXiv:2006.13202).",
        ),
        "sample_distance": (
            "Fréchet distance",
            "{:.3f}",
            f"Of at most {N_COMPARED:,} samples from the held-out images, as Gaussians in 50 principal components of "
            "the pixels. Samples are mean pictures, where images are binarized black and white drawn from them. No "
            "network is needed; but it sees pixels, not what they mean, and does not catch a model that repeats its "
            "images. A model without a prior is drawn from a mixture that is fitted to its codes, one "
            "with a codebook by how often each symbol occurs.",
        ),
        "label_accuracy": ("Accuracy of its classifier", "{:.1%}", "Of the classifier that was trained on the code."),
        "denoising_gain": (
            "Denoising gain, dB",
            "{:.2f}",
            "How much nearer to the clean image the model's picture is than the corrupted one that it was given.",
        ),
        "anomaly_auc": (
            "ROC-AUC of the class left out",
            "{:.3f}",
            "How well −ELBO (without one: the reconstruction) tells that class: 1 always, 0.5 by chance.",
        ),
    },
}  # fmt: skip


def measure_button(opened: OpenModel) -> None:
    """Starts a measurement, and shows how far it is."""
    name = opened.name
    job = evaluations.evaluation_status(name)
    if job and job.state == "running":
        _watch(name)
        return
    if job:
        st.error(job.message)
    if is_read_only():
        return
    left, right = st.columns([0.6, 0.4], vertical_alignment="bottom")
    n_samples, place = 0, left  # a code without spread has no likelihood
    if opened.has_spread:
        place = right
        n_samples = left.selectbox(
            "Importance samples for −log p(x)",
            list(SAMPLES),
            index=1,
            format_func=SAMPLES.get,
            key="importance samples",
        )
    if place.button("Measure", type="primary", width="stretch"):
        try:
            evaluations.start_evaluation(name, n_samples)
        except (CheckpointError, ConfigError, RunError) as error:
            st.error(str(error))
        else:
            st.rerun()


@st.fragment(run_every=0.5)
def _watch(name: str) -> None:
    job = evaluations.evaluation_status(name)
    if job is None or job.state != "running":
        st.rerun()
    st.progress(job.fraction, "Measuring; you may leave this page meanwhile.")


def show_figures(opened: OpenModel) -> None:
    figures = evaluations.read_figures(opened.name)
    if not figures:
        st.info("Nothing has been measured of these weights yet.")
        return
    if opened.told is not None and opened.has_spread:
        st.caption("This model is told each image's class: its ELBO and −log p(x) are those of log p(x|class).")
    for title, group in GROUPS.items():
        shown = {name: group[name] for name in group if figures.get(name) is not None}
        st.subheader(title)
        for start in range(0, len(shown), 5):
            columns = st.columns(5)
            for column, name in zip(columns, list(shown)[start : start + 5], strict=False):
                label, form, meaning = shown[name]
                column.metric(
                    label,
                    form.format(figures[name]).replace("-", "−"),
                    _below(name, figures, opened),
                    "off",
                    help=meaning,
                    delta_arrow="off",
                )
        if title.startswith("What the code") and figures.get("kl_per_dim"):
            names = [axis_name(i) for i in range(len(figures["kl_per_dim"]))]
            _show_bars(names, figures["kl_per_dim"], "KL, nats", figures["active_dims"])
        if title.startswith("What the code") and figures["symbol_usage"]:
            usage = sorted(figures["symbol_usage"], reverse=True)
            ranks = [f"{i}." for i in range(1, len(usage) + 1)]
            _show_bars(ranks, usage, "Share of symbols", below="symbols, the most used first")
    missing = "" if opened.has_spread else " A code without spread has no KL, no ELBO and no −log p(x)."
    label = opened.training.left_out_class
    left_out = f" Class {opened.class_names[label]}, left out of training, is among them." if label >= 0 else ""
    fewer = "where a figure's help names no fewer"
    st.caption(f"Over {figures['n_images']:,} held-out images, {fewer}.{left_out}{missing}")
    st.download_button(
        "Save as JSON", json.dumps(figures, indent=2), f"{opened.name}-figures.json", "application/json",
        on_click="ignore", icon=":material/download:",
    )  # fmt: skip


def _below(name: str, figures: dict[str, Any], opened: OpenModel) -> str | None:
    """What stands below a figure."""
    if name == "nll":
        return f"± {figures['nll_stderr']:.2f}, {figures['n_importance_samples']:,} samples"
    if name == "bits_per_dim" and figures["nll_bits_per_dim"] is not None:
        return f"{figures['nll_bits_per_dim']:.4f} by −log p(x)"
    return {
        "mutual_information": "nats",
        "marginal_kl": "nats",
        "active_units": f"of {opened.config.latent_dim}",
        "symbols_in_use": f"of {opened.config.n_symbols}",
    }.get(name)


def _show_bars(
    names: list[str], values: list[float], title: str, active: list[bool] | None = None, below: str = ""
) -> None:
    """Bars, pale where a dimension is not in use; title and below name the axes."""
    opacity = [1.0 if is_active else 0.35 for is_active in active or [True] * len(values)]
    figure = go.Figure(
        go.Bar(
            x=names, y=values, marker={"opacity": opacity}, hovertemplate=f"%{{x}} {title}: %{{y:.3g}}<extra></extra>"
        )
    )
    figure.update_layout(height=200, margin={"l": 0, "r": 0, "t": 4, "b": 0})
    figure.update_yaxes(title=title)
    figure.update_xaxes(title=below)
    st.plotly_chart(figure, config={"displayModeBar": False}, key=title)
