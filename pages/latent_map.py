"""Latent map: the held-out images as points; a click anywhere decodes."""

import streamlit as st

from pages.ui.explore import explore_map
from pages.ui.frame import begin_page
from pages.ui.map_text import explain_map
from pages.ui.models import pick_class, pick_model
from pages.ui.projections import pick_projection

HEIGHT = 640  # CSS pixels of the map on a wide screen

begin_page(
    "Latent map",
    "Every held-out image is a point at its code. **Move the pointer** to see what the model decodes there, "
    "**click anywhere** to pin a spot, a second one to compare; drag to pan, scroll or pinch to zoom.",
)
model_place, projection_place, images_place = st.columns(3)
with model_place:
    opened = pick_model()
opened = pick_class(opened)
choice = pick_projection(opened, projection_place, images_place, HEIGHT)
if choice:
    explore_map(opened.name, choice, "map", HEIGHT, tools=True)
    explain_map(opened, choice)
