"""Loss curves: redrawn in place while a run is live, plotly for a run that has ended."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import altair as alt
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from vae.train import Record

TERMS = {"loss": "Loss = reconstruction + β · KL", "recon_loss": "Reconstruction", "kl": "KL"}
SPLITS = {"train": ("training", "#4c8ed9"), "held_out": ("held-out", "#e0803a")}
CHART_HEIGHT = 170  # CSS pixels of one term's chart


def _points(records: list[Record], term: str, split: str, axis: str = "epoch") -> tuple[list[float], list[float]]:
    """Epochs, or seconds, and nats of one curve."""
    kept = [record for record in records if getattr(record, split)]
    return [getattr(record, axis) for record in kept], [getattr(getattr(record, split), term) for record in kept]


def _settled(records: list[Record], term: str, splits: Iterable[str] = SPLITS, axis: str = "epoch") -> list[float]:
    """The values of a run's curves without the fall of the first twentieth, which would flatten all that follows."""
    start = 0.05 * getattr(records[-1], axis)
    return [
        nats
        for split in splits
        for place, nats in zip(*_points(records, term, split, axis), strict=True)
        if place >= start
    ]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _y_range(records: list[Record], term: str) -> tuple[float, float]:
    return _range(_settled(records, term))


def live_curves(records: list[Record]) -> None:
    """Vega-Lite charts, which Streamlit updates in place; its plotly charts mount anew at every update and flicker."""
    labels, colours = zip(*SPLITS.values(), strict=True)
    st.markdown(f":blue[●] {labels[0]} :orange[●] {labels[1]}")
    for term, title in TERMS.items():
        frames = []
        for split, (label, _) in SPLITS.items():
            epochs, nats = _points(records, term, split)
            frames.append(pd.DataFrame({"epoch": epochs, "nats": nats, "images": label}))
        chart = (
            alt.Chart(pd.concat(frames), height=CHART_HEIGHT, title=f"{title}, nats per image")
            .mark_line(clip=True, point=alt.OverlayMarkDef(size=14))
            .encode(
                x=alt.X("epoch:Q", title="epoch" if term == "kl" else None),
                y=alt.Y("nats:Q", title=None, scale=alt.Scale(domain=_y_range(records, term), nice=False)),
                color=alt.Color("images:N", scale=alt.Scale(domain=labels, range=colours), legend=None),
            )
            .configure_axis(minExtent=40)
        )
        st.altair_chart(chart, key=f"live {term}", height=CHART_HEIGHT + 50)


def curves(records: list[Record], key: str) -> None:
    """The same curves as one plotly figure: zoom, read off values, save."""
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.08,
        subplot_titles=[f"{title}, nats per image" for title in TERMS.values()],
    )
    for row, term in enumerate(TERMS, start=1):
        for split, (label, colour) in SPLITS.items():
            epochs, nats = _points(records, term, split)
            mode = "lines" if len(epochs) > 1 else "markers"
            trace = go.Scatter(
                x=epochs, y=nats, name=label, mode=mode, line={"color": colour, "width": 2}, legendgroup=label,
                showlegend=row == 1, hovertemplate="%{y:.2f} nats at epoch %{x:.1f}",
            )  # fmt: skip
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(range=_y_range(records, term), row=row, col=1)
    figure.update_xaxes(title_text="epoch", row=3, col=1)
    figure.update_annotations(x=0, xanchor="left", font_size=15)
    figure.update_layout(
        height=3 * CHART_HEIGHT + 60,
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.06, "yanchor": "bottom"},
    )
    st.plotly_chart(figure, key=key)


def overlay(histories: Mapping[str, list[Record]], colours: Sequence[str], term: str, splits: str, axis: str) -> None:
    """One term's curves of several runs in one figure.

    histories: by name, none empty. term: of TERMS. splits: of SPLITS, or "both". axis: "epoch" or "seconds".
    """
    shown = tuple(SPLITS) if splits == "both" else (splits,)
    figure, values = go.Figure(), []
    for (name, records), colour in zip(histories.items(), itertools.cycle(colours), strict=False):
        values += _settled(records, term, shown, axis)
        for split in shown:
            places, nats = _points(records, term, split, axis)
            is_dotted = split == "train" and splits == "both"
            trace = go.Scatter(
                x=places, y=nats, name=name, mode="lines" if len(places) > 1 else "markers", legendgroup=name,
                line={"color": colour, "width": 1.2 if is_dotted else 2, "dash": "dot" if is_dotted else "solid"},
                showlegend=split == shown[0], hovertemplate=f"%{{y:.2f}} nats, {SPLITS[split][0]}",
            )  # fmt: skip
            figure.add_trace(trace)
    figure.update_yaxes(title_text="nats per image", range=_range(values) if values else None)
    figure.update_xaxes(title_text="epoch" if axis == "epoch" else "seconds of training", rangemode="tozero")
    figure.update_layout(
        height=380,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        hovermode="x",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )
    st.plotly_chart(figure, key="overlay")


def class_bars(class_names: Sequence[str], counts: Sequence[int]) -> None:
    """How many images of each class, the largest first; classes of which there are none are left out."""
    pairs = sorted(zip(counts, class_names, strict=True))
    pairs = [pair for pair in pairs if pair[0]]
    figure = go.Figure(
        go.Bar(
            x=[count for count, _ in pairs],
            y=[name for _, name in pairs],
            orientation="h",
            text=[f"{count:,}" for count, _ in pairs],
            hovertemplate="%{y}: %{x:,}<extra></extra>",
        )
    )
    figure.update_layout(height=60 + 26 * len(pairs), margin={"l": 0, "r": 0, "t": 4, "b": 0})
    figure.update_yaxes(type="category", title="class")
    figure.update_xaxes(title="images", rangemode="tozero")
    st.plotly_chart(figure, width="stretch", config={"displayModeBar": False})
