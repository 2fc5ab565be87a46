"""Charts in plotly: curves of several runs, counts of classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st

from vae.train import Record

SPLITS = {"train": "training", "held_out": "held-out"}


def _points(records: list[Record], term: str, split: str, axis: str) -> tuple[list[float], list[float]]:
    """Epochs, or seconds, and nats of one curve."""
    kept = [record for record in records if getattr(getattr(record, split), term, None) is not None]
    return [getattr(record, axis) for record in kept], [getattr(getattr(record, split), term) for record in kept]


def _settled(records: list[Record], term: str, splits: Iterable[str], axis: str) -> list[float]:
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


def overlay(histories: Mapping[str, list[Record]], colours: Sequence[str], term: str, splits: str, axis: str) -> None:
    """One term's curves of several runs in one figure.

    histories: by name, none empty. term: a field of Terms. splits: of SPLITS, or "both". axis: "epoch" or "seconds".
    """
    shown = tuple(SPLITS) if splits == "both" else (splits,)
    # A penalty may be a distance or a norm, which has no unit in common with another's.
    unit, title = ("", "penalty") if term == "penalty" else (" nats", "nats per image")
    figure, values = go.Figure(), []
    for (name, records), colour in zip(histories.items(), itertools.cycle(colours), strict=False):
        values += _settled(records, term, shown, axis)
        for split in shown:
            places, nats = _points(records, term, split, axis)
            is_dotted = split == "train" and splits == "both"
            trace = go.Scatter(
                x=places, y=nats, name=name, mode="lines" if len(places) > 1 else "markers", legendgroup=name,
                line={"color": colour, "width": 1.2 if is_dotted else 2, "dash": "dot" if is_dotted else "solid"},
                showlegend=split == shown[0], hovertemplate=f"%{{y:.4g}}{unit}, {SPLITS[split]}",
            )  # fmt: skip
            figure.add_trace(trace)
    figure.update_yaxes(title_text=title, range=_range(values) if values else None)
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
