"""The embedded pictures: real, split without overlap, and reproducible."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_jepa.data.embedded import PICTURES, EmbeddedCrops, _pyramid, labelled_crops, pictures


def test_pictures_are_real_and_all_there():
    found = pictures()
    assert len(found) == len(PICTURES) == 18
    for name, picture in zip(PICTURES, found, strict=True):
        assert picture.mode == "L" and max(picture.size) <= 512
        assert len(np.unique(np.asarray(picture))) > 50, f"{name} is not a photograph"


@pytest.mark.parametrize("size", [32, 48])
def test_halves_never_overlap(size):
    pyramid = _pyramid(size)
    # Paint the flat array with the column of every pixel, relative to the middle of its picture.
    columns = [
        np.tile(np.arange(w) - w // 2, h) for h, w in zip(pyramid.height.ravel(), pyramid.width.ravel(), strict=True)
    ]
    marked = type("Marked", (), dict(vars(pyramid)))()
    marked.pixels = np.concatenate(columns).astype(np.float32)
    rng = np.random.default_rng(0)
    picture, uniform = rng.integers(0, 18, 500), rng.random((500, 3))
    for half, right in ((0, False), (1, True)):
        raw = _raw_crops(marked, picture, half, uniform)
        assert ((raw >= 0) == right).all()


def _raw_crops(pyramid, picture, half, uniform):
    """Crops before standardisation, by calling the real method with statistics that leave values alone."""
    taken = {}

    class Recorder(np.ndarray):
        def __getitem__(self, index):
            taken["crops"] = np.asarray(self)[index]
            return np.asarray(taken["crops"])

    pyramid.pixels = pyramid.pixels.view(Recorder)
    type(_pyramid(pyramid.size)).crop(pyramid, picture, half, uniform)
    return taken["crops"]


def test_crops_are_standardised():
    pixels, labels = labelled_crops("train", 20)
    assert pixels.shape == (360, 3, 48, 48) and torch.bincount(labels).eq(20).all()
    assert pixels.mean((1, 2, 3)).abs().max() < 1e-5
    assert pixels.std((1, 2, 3)).max() <= 1.0 + 1e-3 and pixels.std((1, 2, 3)).median() > 0.5


def test_samples_depend_on_seed_epoch_and_index_alone():
    crops, again, other = EmbeddedCrops(50), EmbeddedCrops(50), EmbeddedCrops(50, seed=1)
    assert torch.equal(crops[9]["pixel_values"], again.__getitems__([3, 9])[1]["pixel_values"])
    assert not torch.equal(crops[9]["pixel_values"], other[9]["pixel_values"])
    crops.set_epoch(1)
    assert not torch.equal(crops[9]["pixel_values"], again[9]["pixel_values"])


def test_workers_do_not_change_samples():
    batches = [
        torch.cat(
            [batch["pixel_values"] for batch in DataLoader(EmbeddedCrops(32), batch_size=8, num_workers=workers)]
        )
        for workers in (0, 2)
    ]
    assert torch.equal(*batches)


def test_labelled_crops_are_fixed_and_splits_differ():
    assert torch.equal(labelled_crops("test", 3)[0], labelled_crops("test", 3)[0])
    assert not torch.equal(labelled_crops("train", 3)[0], labelled_crops("test", 3)[0])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="split 'val'"):
        labelled_crops("val", 3)
    with pytest.raises(ValueError, match="length=0"):
        EmbeddedCrops(0)
    with pytest.raises(IndexError, match="50 is out of range"):
        EmbeddedCrops(50)[50]
