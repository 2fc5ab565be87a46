"""Evaluate: all figures of a model, each with what it says."""

from pages.ui.figures import measure_button, show_figures
from pages.ui.frame import begin_page
from pages.ui.models import pick_model

begin_page(
    "Evaluate",
    "How good is a model, and what does its code hold? Measured on images that it was never trained on. Likelihoods "
    "are sums over pixels and latent dimensions, means over images, in nats.",
)
opened = pick_model()
measure_button(opened)
show_figures(opened)
