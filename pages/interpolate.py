"""Interpolate: ways between images, samples of the prior and of a posterior, one slider for each dimension."""

import streamlit as st

from pages.ui.frame import begin_page
from pages.ui.models import pick_class, pick_model
from pages.ui.walks import show_dimensions, show_posterior, show_prior, show_walk

begin_page(
    "Interpolate",
    "Each image is a point z in latent space, and each z is a picture. Walk from one image to another, "
    "draw new ones, or turn one dimension at a time.",
)
opened = pick_class(pick_model())
walk, prior, posterior, dimensions = st.tabs(["Walk", "Samples", "Around one image", "Dimensions"])
with walk:
    show_walk(opened.name)
with prior:
    show_prior(opened.name)
with posterior:
    show_posterior(opened.name)
with dimensions:
    show_dimensions(opened.name)
