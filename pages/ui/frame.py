"""The frame of every page: its title, its look, and the settings of the server process."""

from __future__ import annotations

import ctypes
import gc
import sys

import streamlit as st
import torch
from streamlit.runtime.pages_manager import PagesManager

from pages.ui.visitor import greet

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of mallopt, in glibc's malloc.h
STYLE = """
<style>
[data-testid="stMainBlockContainer"] { padding: 3.5rem clamp(1rem, 3.5vw, 4rem) 4rem; }
.latentarium-picture { margin: 0; }
.latentarium-picture img {
    image-rendering: pixelated; display: block; max-width: 100%; border-radius: 6px;
    border: 1px solid color-mix(in srgb, currentColor 25%, transparent);
}
.latentarium-picture figcaption { font-size: 0.875rem; opacity: 0.8; margin-top: 0.35rem; }
.latentarium-row { display: flex; flex-wrap: wrap; gap: 14px; }
.latentarium-strip { overflow-x: auto; }
</style>
"""


def begin_page(title: str, lead: str) -> None:
    """Title and one paragraph that says what the page is for. The first call of every page."""
    _leave_pages_directory_mode()
    _settle_process()
    st.set_page_config(f"{title} · Latentarium" if title != "Latentarium" else title, layout="wide")
    st.html(STYLE)
    greet()
    st.title(title, anchor=False)
    st.markdown(lead)


def _leave_pages_directory_mode() -> None:
    """Until someone has opened `/`, Streamlit takes the folder `pages/` for its older kind of multipage app, in which a
    deep link runs the page bare, without app.py. No public setting turns that off before the first run.

    Once a session, since a rerun forgets which button was pressed: Streamlit's AppTest raises the flag again and again.
    """
    if PagesManager.uses_pages_directory and "app.py ran" not in st.session_state:
        st.session_state["app.py ran"] = True
        PagesManager.uses_pages_directory = False
        st.rerun()


@st.cache_resource(show_spinner=False)
def _settle_process() -> None:
    """Once per server: what the imports made stays for good, so the garbage collector need not walk it at every click.

    One torch thread: sessions are threads already, and a training worker wants the other cores.
    """
    torch.set_num_threads(1)
    _give_memory_back()
    gc.collect()
    gc.freeze()


def _give_memory_back() -> None:
    """On Linux, memory that a visitor's thread has freed goes back to the system.

    glibc gives each thread a pool of its own and keeps there what was freed, even the megabyte of a map's message: two
    pools for all threads, and large blocks outside them. benchmarks/sessions.py counts what a visitor adds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_ARENA_MAX, 2)
        mallopt(M_MMAP_THRESHOLD, 256 * 1024)
