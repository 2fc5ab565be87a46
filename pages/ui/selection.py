"""The images that an outline on the map selects: a grid of them, their classes, their mean, and what one can save."""

from __future__ import annotations

import pandas as pd
import streamlit as st
import torch
from torch import Tensor

from pages.ui.charts import class_bars
from pages.ui.latent_map import Selection
from pages.ui.models import MapChoice, OpenModel, image_place, map_latents, project, reconstructions, source_images
from pages.ui.pictures import save_button, show_picture
from vae.latent import Latents, inside
from vae.pictures import grid

MAX_SHOWN = 60  # pictures in the grid
N_COLUMNS = 12


def show_selection(opened: OpenModel, choice: MapChoice, selection: Selection) -> None:
    latents = map_latents(opened, choice)
    indices = find_selected(opened, choice, selection)
    n = len(indices)
    st.markdown(f"**Selection**: {n:,} of {len(latents.mu):,} images. Clear above the map, or Esc on it, ends it.")
    if not n:
        st.info("No image lies in this outline; draw it around some points.")
        return
    shown = indices[torch.linspace(0, n - 1, min(n, MAX_SHOWN)).long()]
    originals = source_images(opened, choice.images)
    note = "" if originals is not None else ", as the model reconstructs them (the data set is not on this machine)"
    left, middle, right = st.columns([0.5, 0.2, 0.3], gap="medium")
    with left:
        sheet = grid(_pictures(opened, latents, originals, shown), min(N_COLUMNS, len(shown)))
        png = show_picture(sheet, "Selected images", f"{_how_many(len(shown), n)}{note}", _scale(opened))
        save_button(png, f"{opened.name}-selection.png", "save selection")
        st.download_button(
            "Save as CSV",
            lambda: _to_csv(opened, choice, indices),
            f"{opened.name}-selection.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
    with middle:
        mean = _mean_picture(opened, latents, originals, indices)
        show_picture(mean, "Mean picture", f"the mean of {'all ' if n > 1 else ''}{n:,}{note}")
    with right:
        counts = torch.bincount(latents.labels[indices], minlength=len(opened.class_names))
        class_bars(opened.class_names, counts.tolist())


def find_selected(opened: OpenModel, choice: MapChoice, selection: Selection) -> Tensor:
    """The indices of the images inside the outline, without those of hidden classes."""
    points = project(opened, choice).points
    is_hidden = torch.isin(map_latents(opened, choice).labels, torch.tensor(selection.hidden, dtype=torch.long))
    return torch.nonzero(inside(points, torch.tensor(selection.outline)) & ~is_hidden).flatten()


def _how_many(n_shown: int, n: int) -> str:
    return f"all {n:,}" if n_shown == n else f"{n_shown} of {n:,}, evenly chosen"


def _pictures(opened: OpenModel, latents: Latents, originals: Tensor | None, indices: Tensor) -> Tensor:
    if originals is not None:
        return originals[indices]
    return reconstructions(opened, latents.mu[indices], latents.labels[indices])


def _mean_picture(opened: OpenModel, latents: Latents, originals: Tensor | None, indices: Tensor) -> Tensor:
    """uint8 (C, H, W)."""
    batches = indices.split(2000)
    total = sum(_pictures(opened, latents, originals, batch).sum(0, dtype=torch.int64) for batch in batches)
    return (total / len(indices)).round().to(torch.uint8)


def _scale(opened: OpenModel) -> int:
    return max(1, round(40 / opened.config.image_shape[2]))


def _to_csv(opened: OpenModel, choice: MapChoice, indices: Tensor) -> str:
    """A line for each image: index, split, class, place on the map, mu and sigma of each dimension, other numbers."""
    latents, points = map_latents(opened, choice), project(opened, choice).points
    places = [image_place(opened, index) for index in indices.tolist()]
    columns: dict[str, object] = {
        "image": [number for _, number in places],
        "split": [split for split, _ in places],
    }
    columns["class"] = [opened.class_names[label] for label in latents.labels[indices]]
    columns |= {"x": points[indices, 0].tolist(), "y": points[indices, 1].tolist()}
    for i in range(latents.mu.shape[1]):
        columns[f"mu_{i + 1}"] = latents.mu[indices, i].tolist()
    for i in range(latents.mu.shape[1] if opened.has_spread else 0):
        columns[f"sigma_{i + 1}"] = torch.exp(0.5 * latents.logvar[indices, i]).tolist()
    columns |= {name: value[indices].tolist() for name, value in latents.values.items()}
    return pd.DataFrame(columns).to_csv(index=False, float_format="%.6g")
