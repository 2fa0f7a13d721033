"""How plots look: light, few lines, colours that everybody tells apart. Needs matplotlib."""

# matplotlib leaves its keyword arguments untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GRID, FAINT = "#333333", "#E3E3E3", "#8A8A8A"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's."""

DOTS_PER_INCH = 150


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches."""
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def dress(axes: Axes) -> None:
    """Let axes have a grid behind the curves, and no frame but the line below."""
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == "bottom")
    axes.spines["bottom"].set_color("#BBBBBB")


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def write_png(path: Path, content: bytes) -> None:
    """Write a picture.

    Raises:
        OSError: It cannot be written there; a part of it is not left behind.
    """
    try:
        path.write_bytes(content)
    except OSError:
        if path.is_file():  # never a device
            path.unlink()
        raise
