"""The loss history of a run, and the files that show it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_gpt.whole_files import write_whole


class LossRecord(NamedTuple):
    """One line of `losses.jsonl`.

    Attributes:
        kind: string. `"train"`; `"validation"`, over the same sample of the held-out
            part each time; or `"final"`, over all of it, at the end.
        step: int. Steps done.
        loss: float. Nats per token; of `"train"`, the mean since the last record.
        learning_rate: float or None. Of the last step; for `"train"`.
        gradient_norm: float or None. Of the last step, unclipped; for `"train"`.
    """

    kind: str
    step: int
    loss: float
    learning_rate: float | None = None
    gradient_norm: float | None = None


class LossHistory:
    """The records of a run, kept in a file that survives a kill.

    Args:
        path: string. The `losses.jsonl` file.
        last_step: int. Records after this step are dropped: the run goes on from
            there and will make them again.
        writes: bool. Whether this process writes the file. Defaults to True.

    Raises:
        OSError: if the file cannot be read or written.
    """

    def __init__(self, path: str, *, last_step: int, writes: bool = True) -> None:
        self._path = path
        self._writes = writes
        self.records = [r for r in _read_records(path) if r.step <= last_step]
        self._known = {(r.kind, r.step) for r in self.records}
        if writes:
            write_whole(path, "".join(_line(record) for record in self.records))

    def add(self, record: LossRecord) -> None:
        """Appends a record, to the file too; a record already there is kept once."""
        if (record.kind, record.step) in self._known:
            return
        self._known.add((record.kind, record.step))
        self.records.append(record)
        if self._writes:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_line(record))

    def flush(self) -> None:
        """Flushes the file to the disk."""
        if self._writes:
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def of(self, kind: str) -> list[LossRecord]:
        """Returns the records of one kind, in order."""
        return [record for record in self.records if record.kind == kind]


def _line(record: LossRecord) -> str:
    return json.dumps(record._asdict()) + "\n"


def _read_records(path: str) -> list[LossRecord]:
    if not os.path.exists(path):
        return []
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break  # cut off by a kill
            records.append(LossRecord(**json.loads(line)))
    return records


def write_loss_picture(
    path: str,
    *,
    records: Sequence[LossRecord],
    title: str = "",
    x_label: str = "step",
    y_label: str = "loss (nats per token)",
) -> None:
    """Draws training and validation loss over the steps, as a PNG, whole.

    Args:
        path: string.
        records: of any kind.
        title: string. Defaults to none.
        x_label: string. What steps are. Defaults to `"step"`.
        y_label: string. What losses are. Defaults to nats per token.

    Raises:
        OSError: if the file cannot be written.
    """
    # Not through pyplot: no global state, and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, kind, style in (
        ("train", "train", "-"),
        ("validation", "validation", "o-"),
    ):
        points = [record for record in records if record.kind == kind]
        axes.plot(
            [point.step for point in points],
            [point.loss for point in points],
            style,
            markersize=4,
            linewidth=1.2,
            label=label,
        )
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())


class RunLog:
    """TensorBoard scalars and texts of a run.

    Args:
        directory: string. Where the event files go.
    """

    def __init__(self, directory: str) -> None:
        self._writer = tf.summary.create_file_writer(directory)

    def add(self, record: LossRecord, **scalars: float | None) -> None:
        """Writes what a record measured, and other scalars of its step."""
        scalars = {
            f"loss/{record.kind}": record.loss,
            "learning_rate": record.learning_rate,
            "gradient_norm": record.gradient_norm,
            **scalars,
        }
        with self._writer.as_default(step=record.step):
            for name, value in scalars.items():
                if value is not None:
                    tf.summary.scalar(name, value)

    def add_text(self, text: str, *, step: int) -> None:
        """Writes a sample of what the model writes."""
        # TensorBoard reads Markdown: an indented text stays as it is.
        with self._writer.as_default(step=step):
            tf.summary.text("sample", "    " + text.replace("\n", "\n    "))

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()
