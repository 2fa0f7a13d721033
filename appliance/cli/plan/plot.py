"""What each class of robots misses over the number of robots."""

# matplotlib leaves its keyword arguments untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from appliance.cli.plan.report import Document
from appliance.cli.plots import COLOURS, FAINT, INK, dress, new_figure, png, write_png

LINEAR_BELOW = 0.1
"""Percent. From here down to 0 the axis is linear: a logarithm knows no zero."""

TICKS = (0, 0.1, 1, 10, 100)


def write_plot(path: Path, result: Document) -> None:
    """Draw the plot and write it as PNG.

    Raises:
        OSError: It cannot be written there; a part of it is not left behind.
    """
    figure = new_figure(9.6, 5.4)
    axes = figure.add_subplot()
    sizes = [each["robots"] for each in result["sizes"]]
    colours = cycle(COLOURS)
    for name, tier in result["tiers"].items():
        found = [
            (each["robots"], miss)
            for each in result["sizes"]
            if (miss := each["miss_percent_of"][name]) is not None
        ]
        axes.plot(
            [robots for robots, _ in found],
            [miss for _, miss in found],
            label=f"{name}, tier 0" if tier == 0 else name,
            color=next(colours),
            linewidth=2.4 if tier == 0 else 1.6,
            marker="o",
            markersize=4,
        )
    axes.plot(
        sizes,
        [each["miss_percent"] or 0.0 for each in result["sizes"]],
        label="all",
        color=INK,
        linewidth=1.6,
        linestyle=":",
    )
    _marks(axes, result, sizes)
    _axes(axes, sizes)
    seeds = len(result["seeds"])
    axes.set_title(
        f"Observations without an answer in time: {result['looked_at_s']:g} s, mean of {seeds} "
        f"seeds{'' if result['advice'] else ', without phase advice'}",
        loc="left",
        color=INK,
        fontsize=12,
        pad=24,
    )
    figure.legend(loc="outside lower left", ncols=6, frameon=False, labelcolor=INK, fontsize=8.5)
    write_png(path, png(figure))


def _marks(axes: Axes, result: Document, sizes: list[int]) -> None:
    """Draw what is allowed, the described fleet and the largest within the target."""
    targets = {"target": result["miss_percent"]}
    if 0 in result["tiers"].values():
        targets = {"target": targets["target"], "of tier 0": result["tier_0_miss_percent"]}
    for name, percent in targets.items():
        axes.axhline(percent, color=FAINT, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{name}: {percent:g} %",
            (sizes[0], percent),
            xytext=(2, 3),
            textcoords="offset points",
            color=INK,
            fontsize=8.5,
        )
    _mark(axes, result["robots"], f"described: {result['robots']}", FAINT, 2)
    if result["largest"]:
        more = "+" if result["is_bound"] else ""
        _mark(axes, result["largest"], f"largest within: {result['largest']}{more}", INK, 13)


def _mark(axes: Axes, robots: int, text: str, colour: str, above: int) -> None:
    axes.axvline(robots, color=colour, linewidth=1.2)
    axes.annotate(
        text,
        (robots, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, above),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontsize=8.5,
    )


def _percent(value: float, _position: int | None = None) -> str:
    return f"{value:g}%"


def _axes(axes: Axes, sizes: list[int]) -> None:
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.6)
    axes.set_ylim(-0.01, 120)
    axes.yaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=max(0, sizes[0] - 1))
    axes.set_xlabel("robots, in the described mix", color=INK)
    axes.set_ylabel("missed", color=INK)
    dress(axes)
