"""The four parts of the Interpolate page: each a fragment that asks, computes by one named call, and shows."""

from __future__ import annotations

import random

import streamlit as st
import torch

from pages.ui.models import BY_STAMP, OpenModel, open_or_stop, reconstructions, source_images
from pages.ui.pictures import save_button, show_picture
from vae.latent import lerp, sample_posterior, sample_prior, slerp
from vae.pictures import decode_pictures, film_strip, grid
from vae.prior import N_COMPONENTS, Mixture, SymbolFrequencies, count_symbols, fit_mixture

ANY_CLASS = "any"
MIDDLE = (
    "The temperature multiplies the draws' distance from their middle: below 1 they stay near it, above 1 they leave."
)
SOURCES = {  # from which z is drawn: title, explanation
    "prior": (
        "the prior",
        "z is drawn from the prior N(0, I), and decoded: pictures of no image that ever was. " + MIDDLE,
    ),
    "mixture": (
        "a mixture fitted to the codes",
        f"z is drawn from a mixture of {N_COMPONENTS} Gaussians, fitted to the held-out images' codes after training: "
        "it knows where codes lie and where none do. " + MIDDLE,
    ),
    "symbols": (
        "the symbols' frequencies",
        "Each symbol is drawn as often as the held-out images have it in that place, whatever the others are, and "
        "decoded. " + MIDDLE,
    ),
}
SHELL = (
    ": in many dimensions nearly all of the prior's mass lies at about one distance from it, √D, and a straight line "
    "cuts through the empty inside. In two dimensions the inside is full, so either serves."
)
PATHS = {"linear": lerp, "spherical": slerp}


def pick_image(opened: OpenModel, label: str, key: str, default_class: int) -> int:
    """Chooses a held-out image by class, by index or by chance, and shows it. Returns its index."""
    key = f"{key} {opened.name}"
    class_key, index_key = f"{key} class", f"{key} index"
    labels, is_code = opened.latents.labels.tolist(), opened.latents.finite.tolist()
    state = st.session_state

    def members() -> list[int]:
        chosen = state[class_key]
        in_class = [i for i, label in enumerate(labels) if chosen in (ANY_CLASS, opened.class_names[label])]
        return [i for i in in_class if is_code[i]]

    def follow_class() -> None:
        indices = members()
        if indices and state[index_key] not in indices:
            state[index_key] = indices[0]

    def follow_index() -> None:
        if state[class_key] != ANY_CLASS:
            state[class_key] = opened.class_names[labels[state[index_key]]]

    def draw() -> None:
        state[index_key] = random.choice(members() or [i for i in range(len(labels)) if is_code[i]])
        follow_index()

    if index_key not in state:
        state[class_key] = opened.class_names[default_class]
        state[index_key] = next(iter(members()), 0)
        follow_index()
    st.markdown(f"**{label}**")
    left, right = st.columns(2)
    left.selectbox("Class", [ANY_CLASS, *opened.class_names], key=class_key, on_change=follow_class)
    index = right.number_input("Index", 0, len(labels) - 1, key=index_key, step=1, on_change=follow_index)
    st.button("By chance", key=f"{key} chance", on_click=draw)
    if not is_code[index]:
        st.warning(f"The code of image {index:,} is not a number, so nothing can be decoded from it; choose another.")
        st.stop()
    _show_image(opened, index, label)
    return index


def _show_image(opened: OpenModel, index: int, label: str) -> None:
    name = opened.class_names[opened.latents.labels[index]]
    originals = source_images(opened)
    recon = reconstructions(opened, opened.latents.mu[[index]], opened.latents.labels[[index]])[0]
    left, right = st.columns(2)
    if originals is not None:
        with left:
            show_picture(originals[index], f"{label}: held-out image {index}", f"image {index:,}: {name}")
    with right if originals is not None else left:
        show_picture(
            recon, f"{label}: its reconstruction", f"its reconstruction{'' if originals is not None else f' ({name})'}"
        )


def _as_told(opened: OpenModel) -> str:
    """Of a model that is told a class: which it is told here, whatever the images' own are."""
    return "" if opened.told is None else f" as class {opened.class_names[opened.told]}"


def _say_where_images_are(opened: OpenModel) -> None:
    if source_images(opened) is None:
        st.caption("The data set is not on this machine, so the model's reconstructions stand for the images.")


@st.fragment
def show_walk(name: str) -> None:
    opened = open_or_stop(name)
    last_class = len(opened.class_names) - 1
    left, right = st.columns(2, gap="large")
    with left:
        start = pick_image(opened, "From", "walk from", min(3, last_class))
    with right:
        end = pick_image(opened, "To", "walk to", min(8, last_class))
    _say_where_images_are(opened)

    way, frames = st.columns(2, gap="large")
    path = PATHS[way.segmented_control("Path", list(PATHS), default="linear", required=True, key="walk path")]
    n_frames = frames.slider("Pictures in the strip", 3, 24, 11, key="walk frames")
    mu = opened.latents.mu
    z = path(mu[start], mu[end], torch.linspace(0, 1, n_frames))
    strip = film_strip(decode_pictures(opened.model, z))
    png = show_picture(
        strip,
        "Film strip",
        f"left: the first image's code, right: the second's, decoded{_as_told(opened)}",
        _strip_scale(opened, n_frames),
        wide=True,
    )
    save_button(png, f"{name}-walk.png", "save walk", "Save the strip as PNG")

    t = st.slider("Position on the way", 0.0, 1.0, 0.5, 0.01, key="walk position")
    z_here = path(mu[start], mu[end], torch.tensor([t]))
    picture, text = st.columns([0.3, 0.7])
    with picture:
        caption = f"at {t:.2f} of the way{_as_told(opened)}"
        png = show_picture(decode_pictures(opened.model, z_here)[0], "Decoded image", caption)
        save_button(png, f"{name}-walk-{t:.2f}.png", "save position")
    with text:
        st.markdown(f"**z** = ({', '.join(f'{value:.2f}' for value in z_here[0].tolist())})")
        st.caption(
            "The linear path is the straight line between the two codes. The spherical one turns about the origin"
            + (SHELL if opened.has_prior else ".")
        )


@st.fragment
def show_prior(name: str) -> None:
    opened = open_or_stop(name)
    source = _pick_source(opened)
    st.markdown(SOURCES[source][1])
    settings = st.columns([0.3, 0.3, 0.2, 0.2], vertical_alignment="bottom")
    n = settings[0].slider("Number of samples", 1, 144, 64, key="prior n")
    temperature = settings[1].slider("Temperature", 0.1, 2.0, 1.0, 0.05, key="prior temperature")
    seed = settings[2].number_input("Seed", 0, 2**31 - 1, 0, key="prior seed")
    settings[3].button("Redraw", key="prior redraw", width="stretch", on_click=_next_seed, args=("prior seed",))
    if source == "prior":
        z = sample_prior(n, opened.config.latent_dim, seed, temperature)
    else:
        fitted = _fitted(opened, source)
        z = fitted.centre + temperature * (fitted.sample(n, torch.Generator().manual_seed(seed)) - fitted.centre)
    sheet = grid(decode_pictures(opened.model, z), _n_columns(n))
    caption = f"{n} samples, temperature {temperature:.2f}, seed {seed}"
    png = show_picture(sheet, "Samples of the prior" if source == "prior" else "Samples", caption, _sheet_scale(opened))
    save_button(png, f"{name}-samples-{seed}.png", "save samples")


def _pick_source(opened: OpenModel) -> str:
    """From which distribution z is drawn: one of SOURCES."""
    fitted = "symbols" if opened.config.latent == "codebook" else "mixture"
    if not opened.has_prior:
        st.info("This model has no prior: nothing in its training says where a z is to come from.")
        return fitted
    titles = {name: SOURCES[name][0] for name in ("prior", fitted)}
    return st.segmented_control(
        "Draw z from", list(titles), default="prior", required=True, format_func=titles.get, key="prior source"
    )


@st.cache_resource(max_entries=16, show_spinner="Fitting a mixture to the codes.", hash_funcs=BY_STAMP)
def _fitted(opened: OpenModel, source: str) -> Mixture | SymbolFrequencies:
    codes = opened.latents
    keep = codes.finite
    if source == "symbols":
        return count_symbols(opened.whole, codes.mu[keep])
    return fit_mixture(codes.mu[keep], codes.logvar[keep])


@st.fragment
def show_posterior(name: str) -> None:
    opened = open_or_stop(name)
    if not opened.has_spread:
        st.info("This model's encoder answers an image with one code, not with a cloud: there is nothing to draw from.")
        return
    st.markdown(
        "The encoder answers an image not with one z but with a cloud, q(z|x). "
        "Its samples show what the code leaves open."
    )
    left, right = st.columns([0.4, 0.6], gap="large")
    with left:
        index = pick_image(opened, "Image", "posterior", min(4, len(opened.class_names) - 1))
        _say_where_images_are(opened)
    with right:
        n_column, seed_column, redraw_column = st.columns(3, vertical_alignment="bottom")
        n = n_column.slider("Number of samples", 1, 64, 24, key="posterior n")
        seed = seed_column.number_input("Seed", 0, 2**31 - 1, 0, key="posterior seed")
        redraw_column.button(
            "Redraw", key="posterior redraw", width="stretch", on_click=_next_seed, args=("posterior seed",)
        )
        mu, logvar = opened.latents.mu[index], opened.latents.logvar[index]
        labels = opened.latents.labels[index].expand(n) if opened.told is not None else None
        pictures = decode_pictures(opened.whole, sample_posterior(mu, logvar, n, seed), labels)
        std = torch.exp(0.5 * logvar)
        caption = f"{n} samples of q(z|x), seed {seed}; its standard deviation is {std.min():.2f} to {std.max():.2f}"
        png = show_picture(grid(pictures, n_columns=8), "Samples of the posterior", caption, _sheet_scale(opened))
        save_button(png, f"{name}-posterior-{index}.png", "save posterior")


@st.fragment
def show_dimensions(name: str) -> None:
    opened = open_or_stop(name)
    n_dims = opened.config.latent_dim
    st.markdown(
        f"One slider for each latent dimension{', in standard deviations of the prior' if opened.has_prior else ''}. "
        f"Start from {'the middle' if opened.has_prior else '0'} or from an image's code."
    )
    # Wide enough for every image's code, and for the prior.
    limit = max(4.0 if opened.has_prior else 1.0, float(opened.latents.mu[opened.latents.finite].abs().max().ceil()))
    left, right = st.columns([0.4, 0.6], gap="large")
    keys = [f"dimension {name} {i}" for i in range(n_dims)]
    with left:
        picture_place = st.container()
        to_image, to_origin = st.columns(2)
        index = pick_image(opened, "Image", "dimensions", 0)
        mu = opened.latents.mu[index].tolist()
        to_image.button("Its code", key="dimensions image", width="stretch", on_click=_set_sliders, args=(keys, mu))
        to_origin.button(
            "All 0", key="dimensions zero", width="stretch", on_click=_set_sliders, args=(keys, [0.0] * n_dims)
        )
    with right:
        columns = st.columns(2) if n_dims > 6 else [st.container()]
        values = [
            columns[i * len(columns) // n_dims].slider(
                f"z{_subscript(i + 1)}", -limit, limit, step=0.01, key=key, value=0.0
            )
            for i, key in enumerate(keys)
        ]
    with picture_place:
        picture = decode_pictures(opened.model, torch.tensor([values]))[0]
        png = show_picture(picture, "Decoded from the sliders", "decoded from the sliders", 2 * _sheet_scale(opened))
        save_button(png, f"{name}-dimensions.png", "save dimensions")


def _next_seed(key: str) -> None:
    st.session_state[key] = (st.session_state[key] + 1) % 2**31


def _set_sliders(keys: list[str], values: list[float]) -> None:
    for key, value in zip(keys, values, strict=True):
        st.session_state[key] = round(value, 2)


def _sheet_scale(opened: OpenModel) -> int:
    """How much a picture of a sheet is enlarged: to about 56 pixels."""
    return max(1, round(56 / opened.config.image_shape[1]))


def _n_columns(n: int) -> int:
    """Columns of a sheet of n pictures about 1.6 times as wide as high; full rows where that comes near."""
    target = (1.6 * n) ** 0.5
    nearest = min((c for c in range(1, n + 1) if n % c == 0), key=lambda c: abs(c - target))
    return nearest if 0.7 * target <= nearest <= 1.4 * target else max(1, round(target))


def _strip_scale(opened: OpenModel, n_frames: int) -> int:
    """How much a film strip is enlarged: to fill a wide page, and never below 40 pixels a picture."""
    width = opened.config.image_shape[2]
    return max(round(40 / width), 920 // (n_frames * (width + 1)))


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
