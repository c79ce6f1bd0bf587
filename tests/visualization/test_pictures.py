"""The pictures show what they say: curves, components in colour, neighbours that are right or wrong."""

import numpy as np
import pytest
import torch
from drawings import pixels_near
from PIL import Image

from hf_jepa.visualization.confusion import draw_confusion
from hf_jepa.visualization.curves import draw_training_curves
from hf_jepa.visualization.neighbours import draw_neighbours
from hf_jepa.visualization.pca import draw_pca_maps, pca_colors


def test_curves_leave_out_panels_without_values(tmp_path):
    history = [{"step": step, "loss": 1 / step, "rankme": float(step)} for step in range(1, 50)]
    history += [{"train_runtime": 3.0, "step": 49}, {"loss": 5.0}]  # a summary, and an entry without a step
    one = draw_training_curves(history, {"loss": ["loss"], "std": ["std"]}, tmp_path / "one.png")
    two = draw_training_curves(history, {"loss": ["loss"], "RankMe": ["rankme"]}, tmp_path / "two.png", title="run")
    four = draw_training_curves(history, {str(i): ["loss", "rankme"] for i in range(4)}, tmp_path / "four.png")
    sizes = [Image.open(path).size for path in (one, two, four)]
    assert sizes[1][0] == 2 * sizes[0][0] and sizes[2][0] == 3 * sizes[0][0] and sizes[2][1] == 2 * sizes[0][1]


def test_curves_need_something_to_draw(tmp_path):
    with pytest.raises(ValueError, match=r"none of \['std'\] was logged, only \['loss', 'step'\]"):
        draw_training_curves([{"step": 1, "loss": 2.0}], {"std": ["std"]}, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_gap_is_left_where_a_value_is_not_finite(tmp_path):
    history = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 2.0}]
    whole = [{"step": step, "loss": (1.0 + step) / 2} for step in (1, 2, 3)]
    gap = draw_training_curves(history, {"loss": ["loss"]}, tmp_path / "gap.png")
    line = draw_training_curves(whole, {"loss": ["loss"]}, tmp_path / "line.png")
    blue = (46, 134, 171)
    assert 0 < pixels_near(gap, blue) < 0.6 * pixels_near(line, blue)


def test_a_class_may_have_any_name(tmp_path):
    drawn = [draw_confusion([[1, 0], [0, 1]], tmp_path / "confusion.png", ["$x_$", "y"])]
    pixels, tokens = np.zeros((2, 8, 8), np.float32), torch.eye(2)
    options = {"class_names": ("$x^$", "y"), "num_neighbours": 1}
    data = (pixels, pixels, tokens, tokens, torch.arange(2), torch.arange(2))
    drawn.append(draw_neighbours(*data, tmp_path / "near.png", **options))
    assert all(Image.open(path).size[0] > 100 for path in drawn)


def test_components_are_those_of_largest_variance_and_do_not_depend_on_signs():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, 50, 3, generator=generator) * torch.tensor([9.0, 3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q[:, :3]
    colors = pca_colors(latent @ basis.T + 5)
    for c in range(3):
        correlation = np.corrcoef(colors[..., c].ravel(), latent[..., c].ravel().numpy())[0, 1]
        assert abs(correlation) > 0.95
    assert colors.min() == 0 and colors.max() == 1
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    assert np.allclose(pca_colors(latent @ basis.T), pca_colors((latent @ rotation) @ (basis @ rotation).T), atol=1e-4)


def test_constant_tokens_give_a_flat_map():
    assert np.ptp(pca_colors(torch.ones(1, 9, 4))) == 0


def test_maps_of_any_shape_of_image_and_grid(tmp_path):
    tokens = torch.randn(3, 8, 5)
    grey = draw_pca_maps(np.zeros((3, 32, 64)), tokens, (2, 4), tmp_path / "grey.png", columns=2)
    rgb = draw_pca_maps(np.zeros((3, 32, 64, 3), np.uint8), tokens, (2, 4), tmp_path / "rgb.png", columns=3)
    assert Image.open(rgb).width == pytest.approx(1.5 * Image.open(grey).width, abs=2)


def test_maps_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="do not fit one another"):
        draw_pca_maps(np.zeros((2, 8, 8)), torch.randn(2, 9, 4), (2, 4), tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4\)"):
        pca_colors(torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match="NaN"):
        pca_colors(torch.full((1, 9, 4), float("nan")))


def neighbours(path, query_labels, **options):
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    queries = torch.tensor([[5.0, 0.0], [0.0, 0.2]])
    images = np.full((4, 16, 16), 0.5)
    labels = torch.tensor([0, 0, 1, 1])
    return draw_neighbours(
        images[:2], images, queries, gallery, torch.tensor(query_labels), labels, path, num_neighbours=2, **options
    )


def test_right_neighbours_are_green_and_wrong_ones_red(tmp_path):
    green, red = (60, 157, 107), (209, 73, 91)
    right = neighbours(tmp_path / "right.png", [0, 1])
    wrong = neighbours(tmp_path / "wrong.png", [1, 0], class_names=("a_cat", "a very long name of a class"))
    half = neighbours(tmp_path / "half.png", [0, 0])
    assert pixels_near(right, red) == 0 < pixels_near(right, green)
    assert pixels_near(wrong, green) == 0 < pixels_near(wrong, red)
    assert pixels_near(half, green, 10) == pytest.approx(pixels_near(half, red, 10), rel=0.1)


def test_neighbours_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="query images, features and labels must be as many"):
        neighbours(tmp_path / "x.png", [0, 1, 1])
    images, features, labels = np.zeros((2, 4, 4)), torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="num_neighbours is 8, but there are 2"):
        draw_neighbours(images, images, features, features, labels, labels, tmp_path / "x.png")
