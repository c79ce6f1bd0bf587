"""The fields of a recipe reach crops and augmentation."""

import pytest
import torch
from PIL import Image

from hf_jepa.data.transforms import sample_rng
from hf_jepa.training.recipe import parse_recipe
from hf_jepa.training.view_arguments import ViewArguments


def parsed(tmp_path, text: str) -> ViewArguments:
    (tmp_path / "recipe.yaml").write_text(text)
    return parse_recipe([ViewArguments], [str(tmp_path / "recipe.yaml")])[0]


def test_a_recipe_sets_crops_and_probabilities(tmp_path):
    views = parsed(
        tmp_path,
        "num_global_views: 1\nnum_local_views: 2\nlocal_size: 8\nglobal_scale: [1.0, 1.0]\nlocal_scale: [0.1, 0.2]\n"
        "flip_probability: 0\nblur_probability: [1.0, 0.1, 0.0]\nsolarize_probability: 0.3\nblur_sigma: [0.2, 1.0]\n"
        "color_jitter: [0.8, 0.7, 0.6, 0.2]\ncolor_jitter_probability: 0.9\ngrayscale_probability: 0.4\n",
    )
    crops = views.transform((24, 32))
    assert crops(Image.new("RGB", (50, 40)), sample_rng(0, 0, 0)).shape == ((1, 3, 24, 32), (2, 3, 8, 8))
    assert [crop.scale for crop, _ in crops.groups] == [(1.0, 1.0), (0.1, 0.2)]
    augment = views.augmentation((0.5,), (0.2,), seed=3)
    assert augment.probabilities == {
        "flip": (0.0,),
        "jitter": (0.9,),
        "grey": (0.4,),
        "blur": (1.0, 0.1, 0.0),
        "solarize": (0.3,),
    }
    assert augment.color_jitter == (0.8, 0.7, 0.6, 0.2) and augment.blur_sigma == (0.2, 1.0) and augment.seed == 3
    assert augment.mean.tolist() == [0.5] and augment.std.item() == pytest.approx(0.2)
    assert views.augmentation(None, None, 0).standardize


def test_local_size_plays_no_part_without_local_views():
    views = ViewArguments(num_local_views=0)
    assert len(views.transform(32).groups) == 1 and views.num_views == 2


def test_probabilities_for_other_views_are_named():
    with pytest.raises(ValueError, match=r"blur_probability=\[1\.0, 0\.1\].* 8 views"):
        ViewArguments(blur_probability=[1.0, 0.1]).augmentation((0.5,), (0.5,), 0)


def test_defaults_are_those_of_the_augmentation():
    default = type(ViewArguments().augmentation((0.5,), (0.5,), 0))()
    ours = ViewArguments().augmentation(None, None, 0)
    assert ours.probabilities == default.probabilities and ours.color_jitter == default.color_jitter
    assert torch.equal(ours.jitter_low, default.jitter_low) and ours.blur_sigma == default.blur_sigma
