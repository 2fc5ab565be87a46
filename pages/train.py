"""Train: choose data and model, press start, watch what it learns form, hold it, bend it, replay it."""

import streamlit as st

from pages.ui.frame import begin_page
from pages.ui.run_view import pick_run, watch_run
from pages.ui.train_form import train_form
from pages.ui.visitor import is_read_only

begin_page(
    "Train",
    "Choose images and a model, press start, and watch what it learns. Training runs in a process of its own: "
    "you may leave this page, or close the browser, and come back.",
)
if is_read_only():
    view = st.container()
else:
    form, view = st.columns([0.3, 0.7], gap="large")
    with form:
        train_form()
with view:
    name = pick_run()
    if name:
        watch_run(name)
    else:
        st.info("Nothing has been trained here yet: set up a model, and press **Start training**.")
