"""Home: a living map at once, what it is in three sentences, and the way to the pages."""

import streamlit as st

from pages.ui.explore import explore_map
from pages.ui.frame import begin_page
from pages.ui.models import DEFAULT_MODEL, MapChoice

begin_page(
    "Latentarium",
    "A variational autoencoder learnt to squeeze each handwritten digit into two numbers, and to draw the digit again "
    "from them. Each point below is a digit it had never seen, at its two numbers; the colour tells which it was. "
    "**Move the pointer or click anywhere**, also between the points: the model draws what it imagines there.",
)
explore_map(DEFAULT_MODEL, MapChoice("z"), "home")

st.subheader("Where to go from here")
pages = {
    "pages/latent_map.py": (
        "Latent map",
        "Any trained model as a map: its own plane, PCA or t-SNE.",
        ":material/scatter_plot:",
    ),
    "pages/interpolate.py": (
        "Interpolate",
        "Walk between two images, sample new ones, turn one dimension.",
        ":material/linear_scale:",
    ),
    "pages/evaluate.py": (
        "Evaluate",
        "Measure a model: likelihood, what its code holds, how good its pictures are.",
        ":material/query_stats:",
    ),
    "pages/train.py": (
        "Train",
        "Train a model of your own, watch its map form, change β under way, play it back.",
        ":material/show_chart:",
    ),
    "pages/runs.py": (
        "Runs",
        "All that was trained: compare the curves, train on, begin another like it.",
        ":material/table:",
    ),
}
for column, (page, (title, text, icon)) in zip(st.columns(5), pages.items(), strict=True):
    with column.container(border=True):
        st.page_link(page, label=f"**{title}**", icon=icon)
        st.markdown(text)
