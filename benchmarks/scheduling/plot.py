"""What every scheduler misses over the load: all requests, and the critical ones alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from appliance.cli.plots import FAINT, INK, dress, new_figure, png
from benchmarks.scheduling.cases import OURS
from benchmarks.scheduling.table import Found

# Okabe and Ito's colours, told apart by everybody; peers that know no deadlines are grey.
COLOURS = {
    OURS: "#0072B2",
    f"{OURS} + advice": "#009E73",
    "symphony": "#CC79A7",
    "edf": "#D55E00",
    "clockwork": "#E69F00",
    "triton": "#56B4E9",
}
OTHERS, OTHER_LINES = FAINT, ("--", ":", "-.")
LEAST = 0.005
"""Percent. Less is drawn here: a logarithmic axis knows no zero."""


def write_plot(path: Path, found: Sequence[Found], workload: str) -> None:
    """Draw the plot and write it as PNG."""
    figure = new_figure(11, 5.4)
    seeds = len(found[0].scores)
    figure.suptitle(
        f"{workload.upper()}: observations without an answer in time, mean of {seeds} seeds",
        x=0.01,
        ha="left",
        color=INK,
        fontsize=12,
    )
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, "miss", "all robots")
    _panel(right, found, "critical_miss", "critical robots")
    left.set_ylabel("misses [%]", color=INK)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=5,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
    )
    path.write_bytes(png(figure))


def _panel(axes: Axes, found: Sequence[Found], figure: str, title: str) -> None:
    names = list(dict.fromkeys(each.row.name for each in found))
    others = iter(OTHER_LINES)
    for name in names:
        each = [one for one in found if one.row.name == name]
        axes.plot(
            [100 * one.load for one in each],
            [max(LEAST, 100 * one.mean(figure)) for one in each],
            label=name,
            color=COLOURS.get(name, OTHERS),
            linestyle="-" if name in COLOURS else next(others),
            linewidth=2.4 if name.startswith(OURS) else 1.5,
            marker="o",
            markersize=4,
        )
    loads = sorted({100 * each.load for each in found})
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 110)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(loads, [f"{load:g}%" for load in loads])
    axes.set_xlabel("load", color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    dress(axes)
