"""The picture of a stream has a mark for every decode, and refuses what does not belong to the stream."""

import numpy as np
import pytest
from drawings import pixels_near
from PIL import Image

from hf_jepa.visualization.streams import draw_stream


TIMES, VARIANCE = np.arange(40) / 2, np.abs(np.sin(np.arange(40.0)))
BLUE = (46, 134, 171)  # the marks of the first rule
RED = (209, 73, 91)


def test_marks_stand_for_decodes(tmp_path):
    one = draw_stream(TIMES, 0 * VARIANCE, {"first": [1], "second": [5, 20]}, tmp_path / "one.png")
    many = draw_stream(TIMES, 0 * VARIANCE, {"first": [1], "second": range(0, 40, 2)}, tmp_path / "many.png")
    assert pixels_near(many, RED) > 5 * pixels_near(one, RED) > 0
    assert pixels_near(many, BLUE) == pytest.approx(pixels_near(one, BLUE), rel=0.1)


def test_panels_for_what_is_given(tmp_path):
    events = [(0, 5, "walks $x_$"), (5, 9, "sits"), (9, 20, "walks $x_$")]
    marks = {"selective": np.array([3, 14, 30]), "uniform": [5, 15, 25, 35]}
    curves = {"selective": ([1, 2, 3], [0.2, 0.6, 1.0]), "uniform": ([1, 2, 3], [0.2, 0.3, 0.5])}
    paths = [
        draw_stream(TIMES, VARIANCE, marks, tmp_path / "plain.png"),
        draw_stream(TIMES, VARIANCE, marks, tmp_path / "all.png", segments=[0, 10, 18], events=events, curves=curves),
    ]
    plain, full = (Image.open(path).size for path in paths)
    assert plain[0] == full[0] and full[1] > plain[1] + 200
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["all.png", "plain.png"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"decodes": {"first": [1, 40]}}, "'first' spans 1 to 40, but the stream has 40 embeddings"),
        ({"decodes": {"first": [-1]}}, "'first' spans -1 to -1"),
        ({"decodes": {"first": []}}, "'first' must hold indices"),
        ({"decodes": {"first": [0.5]}}, "'first' must hold indices"),
        ({"decodes": {}}, "nothing to compare"),
        ({"segments": [50]}, "'segments' spans 50 to 50"),
        ({"variance": VARIANCE[1:]}, r"times \(40,\) and variance \(39,\)"),
    ],
)
def test_what_does_not_belong_to_the_stream_is_refused(tmp_path, changed, words):
    arguments = {"times": TIMES, "variance": VARIANCE, "decodes": {"first": [1]}} | changed
    with pytest.raises(ValueError, match=words):
        draw_stream(path=tmp_path / "x.png", **arguments)
    assert not list(tmp_path.iterdir())
