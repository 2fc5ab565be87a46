"""Latentarium: `streamlit run app.py`. Names the pages; nothing that a page depends on."""

import streamlit as st

PAGES = [
    st.Page("pages/home.py", title="Latentarium", default=True),
    st.Page("pages/train.py", title="Train", url_path="train"),
    st.Page("pages/runs.py", title="Runs", url_path="runs"),
    st.Page("pages/latent_map.py", title="Latent map", url_path="latent_map"),
    st.Page("pages/interpolate.py", title="Interpolate", url_path="interpolate"),
    st.Page("pages/evaluate.py", title="Evaluate", url_path="evaluate"),
]

page = st.navigation(PAGES)
# An icon of our own: a page's icon as favicon would be fetched from a font server.
st.set_page_config(page_icon="pages/ui/icon.png")
page.run()
