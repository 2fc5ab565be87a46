"""Trained models on a page: pick one, open it once for all visitors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from torch import Tensor

from vae import VAE, ModelConfig, TrainConfig, data
from vae.checkpoint import CheckpointError, find, list_checkpoints, load_latents, load_model, read_config
from vae.data import DataError
from vae.latent import Latents, Projection, project_axes, project_pca, project_tsne

DEFAULT_MODEL = "mnist-2d"


@dataclass(frozen=True)
class OpenModel:
    """A checkpoint in memory, shared by all visitors: nobody writes to it."""

    name: str
    stamp: tuple[int, ...]  # changes when the files do; part of every cache key
    config: ModelConfig
    training: TrainConfig
    class_names: tuple[str, ...]
    model: VAE
    latents: Latents


# For caches of what is made from a model: the same name and files, the same result.
BY_STAMP = {OpenModel: lambda opened: (opened.name, opened.stamp)}


def pick_model(label: str = "Model") -> OpenModel:
    """A select box of the checkpoints that can be opened; the choice is in the URL as `?model=`. Stops the page if
    there is none, and says what is wrong with those that can't be opened."""
    summaries = list_checkpoints()
    names = [summary.name for summary in summaries if summary.problem is None]
    _show_problems([summary.problem for summary in summaries if summary.problem and summary.model is None])
    if not names:
        st.error("There is no trained model yet: train one on the Train page.")
        st.stop()
    asked = st.query_params.get("model")
    if asked and asked not in names:
        st.warning(f"There is no model {asked!r} to open here; another one is shown.")
    default = names.index(DEFAULT_MODEL) if DEFAULT_MODEL in names else 0
    name = st.selectbox(label, names, index=default, key="model", bind="query-params", persist_state="session")
    return open_or_stop(name)


def _show_problems(problems: list[str]) -> None:
    if problems:
        with st.expander(f"{len(problems)} checkpoint{'s' * (len(problems) > 1)} can't be opened"):
            for problem in problems:
                st.markdown(problem)


def open_model(name: str) -> OpenModel:
    """Raises CheckpointError if the checkpoint is missing, damaged or foreign."""
    folder = find(name)
    return _open(name, folder, _stamp(folder))


def _stamp(folder: Path) -> tuple[int, ...]:
    paths = [folder / name for name in ("config.json", "model.safetensors", "latents.safetensors")]
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths)


def open_or_stop(name: str) -> OpenModel:
    """For fragments, which run again long after their page: stops with a sentence if the checkpoint has gone bad."""
    try:
        return open_model(name)
    except CheckpointError as error:
        st.error(str(error))
        st.stop()


@st.cache_resource(max_entries=16, show_spinner=False)
def _open(name: str, folder: Path, stamp: tuple[int, ...]) -> OpenModel:
    config, training = read_config(folder)
    class_names = data.dataset_info(training.dataset).class_names
    return OpenModel(name, stamp, config, training, class_names, load_model(folder), load_latents(folder))


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_STAMP)
def project(opened: OpenModel, kind: str) -> Projection:
    """The held-out codes of a model in the plane. kind: z, pca or tsne."""
    latents = opened.latents
    if kind == "tsne":
        return project_tsne(latents.mu, latents.tsne)
    return project_pca(latents.mu) if kind == "pca" else project_axes(latents.mu)


@st.cache_resource(max_entries=4, show_spinner=False)
def _load_held_out(dataset: str) -> Tensor:
    return data.load(dataset, "held_out").images


def held_out_images(dataset: str) -> Tensor | None:
    """The real held-out images, uint8 (N, C, H, W), where the data set is on this machine; else None."""
    try:
        return _load_held_out(dataset) if data.is_present(dataset) else None
    except DataError:
        return None
