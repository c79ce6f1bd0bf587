"""The picture of embedding geometry shows each model in a row, on common axes."""

import numpy as np
import pytest
import torch
from drawings import pixels_near
from PIL import Image

from hf_jepa.evaluation.embedding_geometry import embedding_geometry
from hf_jepa.visualization.embedding_geometry import draw_embedding_geometry


RED = (193, 68, 60)  # of the difference


@pytest.fixture(scope="module")
def geometries():
    text, other = (torch.randn(200, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return {"near": embedding_geometry(text, text + 0.1 * other), "far": embedding_geometry(text, other)}


def test_a_row_for_each_model(geometries, tmp_path):
    one = draw_embedding_geometry({"near": geometries["near"]}, tmp_path / "one.png")
    two = draw_embedding_geometry(geometries, tmp_path / "deep" / "two.png", title="two")
    sizes = [Image.open(path).size for path in (one, two)]
    assert sizes[0][0] == sizes[1][0] and sizes[1][1] > 2 * sizes[0][1] - 2
    assert pixels_near(one, RED) > 100 and [path.name for path in two.parent.iterdir()] == ["two.png"]


def test_the_spectrum_of_a_difference_that_is_zero_is_left_out(geometries, tmp_path):
    x = torch.randn(50, 8)
    same = draw_embedding_geometry({"same": embedding_geometry(x, x)}, tmp_path / "same.png")
    other = draw_embedding_geometry({"near": geometries["near"]}, tmp_path / "near.png")
    assert pixels_near(same, RED) < pixels_near(other, RED)


def test_cosines_that_are_all_the_same_are_drawn(tmp_path):
    ones = torch.ones(30, 4)
    path = draw_embedding_geometry({"collapsed": embedding_geometry(ones, ones)}, tmp_path / "collapsed.png")
    assert np.ptp(np.asarray(Image.open(path))) > 200


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no embedding geometry"):
        draw_embedding_geometry({}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
