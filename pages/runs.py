"""Runs: all that was trained, in one table; compare curves, train on, rename, delete."""

import streamlit as st

from pages.ui.compare import compare
from pages.ui.frame import begin_page
from pages.ui.run_actions import show_run
from pages.ui.runs_table import pick_runs

begin_page(
    "Runs",
    "All runs and checkpoints, with their held-out figures in nats per image. Click a header to sort; tick one row to "
    "do something with it, several to compare their curves.",
)
chosen = pick_runs()
if len(chosen) == 1:
    show_run(chosen[0])
if chosen:
    compare(chosen)
else:
    st.caption("Tick a row at its left to see its curves and what can be done with it.")
