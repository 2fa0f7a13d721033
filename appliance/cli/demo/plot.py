"""The latency of each kind of robot over its percentiles, as HdrHistogram users draw it.

The horizontal axis gives each further nine the same room, so that the tail is not a thin line at
the right edge. A curve ends where its last answer lies: 1,000 answers know nothing beyond 99.9%.
"""

# matplotlib leaves its keyword arguments untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from appliance.cli.demo.book import new_histogram
from appliance.cli.demo.reports import RobotReport
from appliance.cli.demo.roster import KINDS, Role
from appliance.cli.plots import COLOURS, FAINT, INK, dress, new_figure, png, write_png

# The neighbour is grey.
STYLES: dict[Role, tuple[str, str, str]] = {
    "arm": ("arms", COLOURS[0], "-"),
    "camera": ("cameras", COLOURS[1], "-"),
    "microphone": ("microphones", COLOURS[2], "-"),
    "noisy": ("noisy neighbour", FAINT, "--"),
}
TICKS = (0, 50, 90, 99, 99.9, 99.99, 99.999)


def write_plot(path: Path, reports: Sequence[RobotReport], title: str) -> None:
    """Draw the plot and write it as PNG.

    Raises:
        OSError: It cannot be written there; a part of it is not left behind.
    """
    write_png(path, draw(reports, title))


def draw(reports: Sequence[RobotReport], title: str) -> bytes:
    """Return the plot as PNG."""
    figure = new_figure(9.6, 5.8)
    axes = figure.add_subplot()
    longest = 1
    for role in STYLES:
        histogram = merged([report for report in reports if report["role"] == role])
        answers = histogram.get_total_count()
        if answers:
            _curve(axes, role, histogram)
            longest = max(longest, answers)
    _axes(axes, longest)
    axes.set_title(title, loc="left", color=INK, fontsize=12, pad=12)
    if axes.get_lines():
        figure.legend(
            loc="outside lower left", ncols=2, frameon=False, labelcolor=INK, fontsize=8.5
        )
    return png(figure)


def merged(reports: Sequence[RobotReport]) -> HdrHistogram:
    """Return the histogram of several robots together."""
    histogram = new_histogram()
    for report in reports:
        histogram.add(HdrHistogram.decode(report["histogram"].encode("ascii")))
    return histogram


def points(histogram: HdrHistogram) -> tuple[list[float], list[float]]:
    """Return a curve: 1 / (1 - percentile), and latency in milliseconds."""
    total = histogram.get_total_count()
    nines, latencies = [1.0], [histogram.get_min_value() / 1000]
    for item in histogram.get_recorded_iterator():
        below = item.total_count_to_this_value
        nines.append(total / max(1, total - below))
        latencies.append(item.value_iterated_to / 1000)
    return nines, latencies


def _curve(axes: Axes, role: Role, histogram: HdrHistogram) -> None:
    name, color, line = STYLES[role]
    p50, p99 = (histogram.get_value_at_percentile(each) / 1000 for each in (50, 99))
    nines, latencies = points(histogram)
    axes.plot(
        nines,
        latencies,
        color=color,
        linestyle=line,
        linewidth=1.8,
        drawstyle="steps-post",
        label=(
            f"{name} ({KINDS[role].model}): p50 {_plain(p50)}, p99 {_plain(p99)} ms"
            f" of {histogram.get_total_count():,} answers"
        ),
    )
    axes.plot(nines[-1], latencies[-1], marker="o", markersize=4, color=color)


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _axes(axes: Axes, longest: int) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, max(10, longest * 1.3))
    ticks = [each for each in TICKS if 100 / (100 - each) <= axes.get_xlim()[1]]
    axes.set_xticks([100 / (100 - each) for each in ticks], [f"{each:g}%" for each in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_xlabel("percentile of answers (each further nine takes the same room)", color=INK)
    axes.set_ylabel("latency, capture to answer [ms]", color=INK)
    dress(axes)
