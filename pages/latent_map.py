"""Latent map: the held-out images as points; a click anywhere decodes."""

import streamlit as st

from pages.ui.explore import explore_map
from pages.ui.frame import begin_page
from pages.ui.map_text import explain_map
from pages.ui.models import pick_model
from pages.ui.projections import pick_projection

begin_page(
    "Latent map",
    "Every held-out image is a point at its code. **Move the pointer** to see what the model decodes there, "
    "**click anywhere** to pin a spot; drag to pan, scroll or pinch to zoom.",
)
left, right = st.columns(2)
with left:
    opened = pick_model()
with right:
    kind = pick_projection(opened)
if kind:
    explore_map(opened.name, kind, "map", height=600)
    explain_map(opened, kind)
