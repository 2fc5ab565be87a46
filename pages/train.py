"""Train: choose data and model, press start, watch the terms of the loss fall."""

import streamlit as st

from pages.ui.frame import begin_page
from pages.ui.run_view import pick_run, watch_run
from pages.ui.train_form import train_form

begin_page(
    "Train",
    "Choose images and a model, press start, and watch what it learns. Training runs in a process of its own: "
    "you may leave this page, or close the browser, and come back.",
)
form, view = st.columns([0.36, 0.64], gap="large")
with form:
    train_form()
with view:
    name = pick_run()
    if name:
        watch_run(name)
    else:
        st.info("Nothing has been trained here yet: set up a model, and press **Start training**.")
