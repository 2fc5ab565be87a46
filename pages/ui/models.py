"""Trained models on a page: pick one, open it once for all visitors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import streamlit as st
import torch
from torch import Tensor

from vae import VAE, ModelConfig, TrainConfig, data
from vae.checkpoint import CheckpointError, find, list_checkpoints, load_latents, load_model, read_config
from vae.config import has_prior
from vae.data import DataError
from vae.latent import (
    Latents,
    Projection,
    encode_images,
    image_recon_loss,
    project_axes,
    project_dims,
    project_embedding,
    project_pca,
    trustworthiness,
)
from vae.pictures import decode_pictures

DEFAULT_MODEL = "mnist-2d"


@dataclass(frozen=True)
class OpenModel:
    """A checkpoint in memory, shared by all visitors: nobody writes to it."""

    name: str
    stamp: tuple[int, ...]  # changes when the files do; part of every cache key
    config: ModelConfig
    training: TrainConfig
    class_names: tuple[str, ...]
    model: VAE  # of a model with labels that are given: as told one class
    latents: Latents
    whole: VAE  # as trained
    told: int | None = None  # the class that `model` is told

    @property
    def has_prior(self) -> bool:
        return has_prior(self.config, self.training)

    @property
    def has_spread(self) -> bool:
        """Whether a code is a distribution."""
        return self.config.latent == "gaussian"


@dataclass(frozen=True)
class MapChoice:
    """Which plane of a model's codes the map shows, and of which images."""

    kind: Literal["z", "pca", "dims", "tsne", "umap"]
    dims: tuple[int, int] = (0, 1)  # dims only: which two, from 0
    hold: int | None = None  # dims only: the image whose code the other dimensions keep; None: they are 0
    images: Literal["held_out", "all"] = "held_out"  # all: those trained on, too, after the held-out ones


# For caches of what is made from a model: the same name and files, the same result.
BY_STAMP = {OpenModel: lambda opened: (opened.name, opened.stamp)}
LINKED = {"bind": "query-params", "persist_state": "session"}  # a choice that the page's link holds


def forget_place() -> None:
    """Another map has other places: the link no longer says where one was on the last one."""
    for name in ("view", "pins", "hidden"):
        st.query_params.pop(name, None)


def pick_model(label: str = "Model") -> OpenModel:
    """A select box of the checkpoints that can be opened; the choice is in the URL as `?model=`. Stops the page if
    there is none, and says what is wrong with those that can't be opened."""
    summaries = list_checkpoints()
    names = [summary.name for summary in summaries if summary.problem is None]
    show_problems([summary.problem for summary in summaries if summary.problem and summary.model is None])
    if not names:
        st.error("There is no trained model yet: train one on the Train page.")
        st.stop()
    asked = st.query_params.get("model")
    if asked and asked not in names:
        st.warning(f"There is no model {asked!r} to open here; another one is shown.")
    default = names.index(DEFAULT_MODEL) if DEFAULT_MODEL in names else 0
    name = st.selectbox(label, names, index=default, key="model", on_change=forget_place, **LINKED)
    return open_or_stop(name)


def pick_class(opened: OpenModel) -> OpenModel:
    """Asks what the decoder of a conditional model is to be told; other models stay as they are."""
    if opened.told is None:
        return opened
    st.segmented_control(
        "Class that the decoder is told", range(len(opened.class_names)), default=opened.told, required=True,
        format_func=lambda label: opened.class_names[label], key=_told_key(opened.name),
    )  # fmt: skip
    return open_or_stop(opened.name)


def _told_key(name: str) -> str:
    return f"told {name}"


def show_problems(problems: list[str]) -> None:
    """What is wrong with checkpoints that can't be opened, folded away."""
    if problems:
        with st.expander(f"{len(problems)} checkpoint{'s' * (len(problems) > 1)} can't be opened"):
            for problem in problems:
                st.markdown(problem)


def open_model(name: str) -> OpenModel:
    """Raises CheckpointError if the checkpoint is missing, damaged or foreign."""
    folder = find(name)
    told = st.session_state.get(_told_key(name)) or 0
    return _open(name, folder, _stamp(folder), told)


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
def _open(name: str, folder: Path, stamp: tuple[int, ...], told: int) -> OpenModel:
    config, training = read_config(folder)
    latents, whole = load_latents(folder), load_model(folder)
    class_names = data.dataset_info(training.dataset).class_names if latents.has_labels else ("image",)
    if config.labels != "given":
        return OpenModel(name, stamp, config, training, class_names, whole, latents, whole)
    model = whole.for_class(told)
    return OpenModel(name, (*stamp, told), config, training, class_names, model, latents, whole, told)


def reconstructions(opened: OpenModel, mu: Tensor, labels: Tensor) -> Tensor:
    """decode(mu) of images with these classes, (N, D) and (N,) -> uint8 (N, C, H, W)."""
    return decode_pictures(opened.whole, mu, labels if opened.told is not None else None)


def map_latents(opened: OpenModel, choice: MapChoice) -> Latents:
    """The codes that a map shows. Raises DataError if they are of a data set that is not here."""
    return opened.latents if choice.images == "held_out" else _encode_all(opened)


@st.cache_resource(
    max_entries=2, show_spinner="Encoding the images that the model was trained on.", hash_funcs=BY_STAMP
)
def _encode_all(opened: OpenModel) -> Latents:
    held_out = opened.latents
    train = _trained_on(opened.training.dataset, opened.training.targets, opened.training.left_out_class)
    mu, logvar = encode_images(opened.whole, train.images, train.labels)
    values = {}
    if "recon_loss" in held_out.values:
        losses = image_recon_loss(opened.whole, train.images, mu, train.labels)
        values["recon_loss"] = torch.cat([held_out.values["recon_loss"], losses])
    return Latents(
        mu=torch.cat([held_out.mu, mu]),
        logvar=torch.cat([held_out.logvar, logvar]),
        labels=torch.cat([held_out.labels, train.labels]),
        values=values,
    )


def image_place(opened: OpenModel, index: int) -> tuple[str, int]:
    """The split that an image of a map belongs to, and its number there, from 0."""
    n_held_out = len(opened.latents.mu)
    return ("held out", index) if index < n_held_out else ("training", index - n_held_out)


def image_name(opened: OpenModel, index: int) -> str:
    """What an image of a map is called, here and in map.js."""
    split, number = image_place(opened, index)
    return f"{'training ' if split == 'training' else ''}image {number:,}"


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_STAMP)
def project(opened: OpenModel, choice: MapChoice) -> Projection:
    """The codes of a model in a plane."""
    mu = map_latents(opened, choice).mu
    if choice.kind in ("tsne", "umap"):
        return project_embedding(choice.kind, mu, opened.latents.embeddings[choice.kind])
    if choice.kind == "dims":
        hold = torch.zeros(mu.shape[1]) if choice.hold is None else opened.latents.mu[choice.hold].nan_to_num()
        return project_dims(mu, choice.dims, hold)
    return project_pca(mu) if choice.kind == "pca" else project_axes(mu)


def held_out_trust(opened: OpenModel, choice: MapChoice) -> float:
    """The trustworthiness of a projection, of the held-out images alone."""
    return _held_out_trust(opened, replace(choice, hold=None))  # what is held moves no point


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_STAMP)
def _held_out_trust(opened: OpenModel, choice: MapChoice) -> float:
    projection, n = project(opened, choice), len(opened.latents.mu)
    return trustworthiness(projection.mu[:n], projection.points[:n])


@st.cache_resource(max_entries=4, show_spinner=False)
def _load_images(dataset: str, targets: str, left_out_class: int, images: str) -> Tensor:
    held_out = data.load_targets(dataset, "held_out", targets).images
    if images == "held_out":
        return held_out
    return torch.cat([held_out, _trained_on(dataset, targets, left_out_class).images])


def _trained_on(dataset: str, targets: str, left_out_class: int) -> data.Images:
    train = data.load_targets(dataset, "train", targets)
    return train if left_out_class < 0 else data.without_class(train, left_out_class)


def source_images(opened: OpenModel, images: str = "held_out") -> Tensor | None:
    """The images behind the codes as the model saw them, uint8 (N, C, H, W); None where the data set is not here."""
    training = opened.training
    left_out = -1 if images == "held_out" else training.left_out_class
    try:
        if data.is_present(training.dataset):
            return _load_images(training.dataset, training.targets, left_out, images)
        return None
    except DataError:
        return None
