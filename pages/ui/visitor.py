"""Who looks, and what they may do: alone everything, in a class only what is theirs, on a public screen nothing.

$LATENTARIUM_MODE is `single` (the default), `class` or `read-only`. A visitor is a browser, known by a cookie that
holds a random number; runs.create keeps a digest of it as the run's owner, so reading the folder makes nobody an owner.
"""

from __future__ import annotations

import hashlib
import os
import re

import streamlit as st

from vae import runs
from vae.checkpoint import CheckpointError

MODES = ("single", "class", "read-only")
COOKIE = "latentarium_visitor"
ID_PATTERN = re.compile(r"[0-9a-f]{32}", re.ASCII)
_visitor = st.components.v2.component(
    "latentarium_visitor",
    html="<span hidden></span>",
    js=f"""
    export default function ({{ setStateValue }}) {{
      const cookie = document.cookie.match(/{COOKIE}=([0-9a-f]{{32}})/);
      const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
        (byte) => byte.toString(16).padStart(2, "0")).join("");
      const id = cookie ? cookie[1] : random();
      document.cookie = `{COOKIE}=${{id}}; path=/; max-age=31536000; SameSite=Strict`;
      setStateValue("id", id);
    }}
    """,
    isolate_styles=False,
)


def mode() -> str:
    """One of MODES; stops the page if the server was told another."""
    asked = os.environ.get("LATENTARIUM_MODE") or "single"
    if asked not in MODES:
        st.error(
            f"LATENTARIUM_MODE: {asked!r} was given; choose one of {', '.join(MODES)}, and start the server again."
        )
        st.stop()
    return asked


def is_read_only() -> bool:
    return mode() == "read-only"


def greet() -> None:
    """On a class's server, learns who looks: by the cookie that came with the connection, or, at a browser's first
    visit, by the one that the page's script has just made. Once on each page."""
    if mode() != "class":
        return
    known = str(st.context.cookies.get(COOKIE) or "")
    if not ID_PATTERN.fullmatch(known):
        known = str(_visitor(key="visitor", on_id_change=lambda: None).id or "")
    if ID_PATTERN.fullmatch(known):
        st.session_state["owner"] = hashlib.sha256(known.encode()).hexdigest()[:32]


def owner() -> str:
    """What runs that this visitor starts are marked with; empty where everybody may do everything, and for a moment at
    a browser's first visit of a class's server."""
    return st.session_state.get("owner", "") if mode() == "class" else ""


def may_change(name: str) -> bool:
    """Whether this visitor may steer, stop, rename or delete a run."""
    if mode() == "class":
        try:
            return bool(owner()) and runs.owner_of(name) == owner()
        except CheckpointError:
            return False
    return mode() == "single"
