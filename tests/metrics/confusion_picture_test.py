"""The picture of a confusion matrix: its colours, and what it refuses."""

import os

import numpy as np
import pytest
from matplotlib import image

from keras_gpt.metrics import write_confusion_picture

LIGHT, DARK = [247, 251, 255], [8, 48, 107]  # ends of the colour map


def count_pixels(path, colour):
    pixels = np.round(image.imread(path)[..., :3] * 255).astype(int)
    return int(np.sum(np.all(pixels == colour, axis=-1)))


def test_colours_are_shares_of_rows(tmp_path):
    # Rows of very different sizes: by share, the diagonal is dark in both.
    write_confusion_picture(tmp_path / "a.png", matrix=[[1000, 0], [0, 3]])
    dark, light = (count_pixels(tmp_path / "a.png", c) for c in (DARK, LIGHT))
    assert dark > 40_000
    assert light > 40_000
    write_confusion_picture(tmp_path / "a.png", matrix=[[0, 0], [0, 3]])
    assert count_pixels(tmp_path / "a.png", DARK) == pytest.approx(dark / 2, rel=0.1)
    assert os.listdir(tmp_path) == ["a.png"]  # no rest of the writing


def test_many_classes_have_room_for_their_names(tmp_path):
    matrix = np.diag(np.arange(1, 78) * 100)
    names = [f"${k} a_name\nof many letters, too many" for k in range(77)]
    write_confusion_picture(tmp_path / "a.png", matrix=matrix, names=names, title="$")
    height, width, _ = image.imread(tmp_path / "a.png").shape
    assert 1600 < height < width < 2200
    # Without names the picture is smaller.
    write_confusion_picture(tmp_path / "b.png", matrix=matrix)
    assert image.imread(tmp_path / "b.png").shape[0] < height - 100


def test_a_thousand_classes_are_drawn_without_letters(tmp_path):
    write_confusion_picture(tmp_path / "a.png", matrix=np.eye(1000, dtype=int))
    assert max(image.imread(tmp_path / "a.png").shape) < 4000


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        ([[1, 2, 3]], None, r"matrix must be .* shape \(1, 3\)"),
        ([[0.5]], None, "matrix must be integers .* got float64"),
        ([[-1]], None, "matrix must have no negative count, got -1"),
        ([[1]], ["a", "b"], "names must be as many as the classes, 1, got 2"),
    ],
)
def test_arguments_are_checked(tmp_path, matrix, names, message):
    with pytest.raises(ValueError, match=message):
        write_confusion_picture(tmp_path / "a.png", matrix=matrix, names=names)
    assert os.listdir(tmp_path) == []
