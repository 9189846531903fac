"""A picture of a confusion matrix, for two classes or a hundred."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_gpt.whole_files import write_whole

_FEW_CLASSES = 20
_MANY_CLASSES = 150  # Of more, no letter could be read.
_CELL_INCHES = (0.19, 0.6)  # of many classes, of few
_FONT_POINTS = (6.0, 9.0)  # of many classes, of few
_SIDE_INCHES = (2.5, 30.0)  # least and most
_LONGEST_NAME = 32  # characters; the rest is cut
_DPI = 110


def write_confusion_picture(
    path: str | os.PathLike[str],
    *,
    matrix: Any,
    names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws a confusion matrix as a PNG, whole.

    The colour of a cell is its share of the row, on a scale of square roots, so that
    rare classes and rare mistakes are seen as well; its number is the count, left out
    where it is 0; a "k" counts thousands. Of more than 150 classes, names and numbers
    are left out.

    Args:
        path: path. A local file; its folder must be there.
        matrix: int (C, C), of `confusion_matrix`. Row: label; column: prediction.
        names: strings, C of them. Long ones are cut. Defaults to the class numbers.
        title: string. Defaults to none.

    Raises:
        ValueError: if the matrix is no square of counts, or the names are not C.
        OSError: if the file cannot be written.
    """
    counts = np.asarray(matrix)
    is_square = counts.ndim == 2 and counts.shape[0] == counts.shape[1]
    if not is_square or not counts.size or counts.dtype.kind not in "iu":
        raise ValueError(
            "matrix must be integers of shape (C, C), C at least 1, got "
            f"{counts.dtype} of shape {counts.shape}."
        )
    if counts.min() < 0:
        raise ValueError(f"matrix must have no negative count, got {counts.min()}.")
    names = [_shortened(n) for n in (range(len(counts)) if names is None else names)]
    if len(names) != len(counts):
        raise ValueError(
            f"names must be as many as the classes, {len(counts)}, got {len(names)}."
        )
    figure = _draw(counts, names, title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())


def _draw(counts: np.ndarray, names: Sequence[str], title: str) -> Any:
    # Not through pyplot: no global state, and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    points = _FONT_POINTS[len(counts) <= _FEW_CLASSES]
    side = _CELL_INCHES[len(counts) <= _FEW_CLASSES] * len(counts)
    side = min(max(side, _SIDE_INCHES[0]), _SIDE_INCHES[1])
    # Letters are about half as wide as high, and an inch has 72 points.
    margin = 1.0 + max(map(len, names)) * points * 0.6 / 72
    figure = Figure(
        figsize=(side + margin + 1.0, side + margin), dpi=_DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root shows also the few rows that went to a wrong class.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
    figure.colorbar(image, ax=axes, label="share of the label's rows", aspect=30)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(title, parse_math=False)
    if len(counts) <= _MANY_CLASSES:
        _add_letters(axes, counts, shares, names, points)
    return figure


def _add_letters(
    axes: Any,
    counts: np.ndarray,
    shares: np.ndarray,
    names: Sequence[str],
    points: float,
) -> None:
    """Adds the classes' names, the lines between cells and the counts."""
    style = {"fontsize": points, "parse_math": False}
    axes.set_xticks(range(len(names)), names, rotation=90, **style)
    axes.set_yticks(range(len(names)), names, **style)
    edges = np.arange(1, len(names)) - 0.5
    axes.hlines(edges, -0.5, len(names) - 0.5, color="lightgray", linewidth=0.4)
    axes.vlines(edges, -0.5, len(names) - 0.5, color="lightgray", linewidth=0.4)
    most = 999 if len(names) > _FEW_CLASSES else 999_999  # that a cell has room for
    for row, column in zip(*np.nonzero(counts), strict=True):
        count = int(counts[row, column])
        axes.text(
            column,
            row,
            str(count) if count <= most else f"{count / 1000:.0f}k",
            ha="center",
            va="center",
            fontsize=points,
            color="white" if shares[row, column] > 0.35 else "black",
        )


def _shortened(name: object) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
