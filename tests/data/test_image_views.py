"""Views of images and of the embedded photographs: crops, batches, what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import CORRUPT, picture
from PIL import Image
from torch.utils.data import DataLoader

from hf_jepa.data import views as module
from hf_jepa.data.images import ImageDataset, IterableImageDataset
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import RandomResizedCrop, sample_rng
from hf_jepa.data.views import EmbeddedViews, MultiCrop, ViewCollator


CROPS = MultiCrop(24, num_local=3, local_size=(12, 16))


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_views_are_crops_of_their_scales():
    ramp = np.arange(200) * np.ones((200, 1))  # every pixel says its column, and its row in another channel
    image = Image.fromarray(np.stack([ramp, ramp.T, np.zeros_like(ramp)], -1).astype(np.uint8))
    crop = MultiCrop(16, num_global=2, global_scale=(0.5, 0.9), local_size=8, num_local=4, local_scale=(0.05, 0.1))
    areas = [[], []]
    for i in range(200):
        for group, found in zip(crop(image, sample_rng(0, 0, i)), areas, strict=True):
            assert group.dtype == torch.uint8
            x, y = group[:, 0].float(), group[:, 1].float()
            size = group.shape[-1]
            width, height = (x[:, 0, -1] - x[:, 0, 0]), (y[:, -1, 0] - y[:, 0, 0])  # between centres of border pixels
            found += (width * height * (size / (size - 1)) ** 2 / 200**2).tolist()
    assert 0.45 < min(areas[0]) < 0.55 and 0.85 < max(areas[0]) < 0.95
    assert 0.04 < min(areas[1]) < 0.06 and 0.09 < max(areas[1]) < 0.115
    assert [len(found) for found in areas] == [400, 800]


def test_views_are_those_of_the_crop_with_random_numbers_of_their_own():
    image = picture(0, 80, 90)
    views = CROPS(image, sample_rng(3, 2, 1))
    assert views.shape == ((2, 3, 24, 24), (3, 3, 12, 16))
    generators = sample_rng(3, 2, 1).spawn(5)
    for v, generator in enumerate(generators):
        crop = RandomResizedCrop(24) if v < 2 else RandomResizedCrop((12, 16), (0.05, 0.3))
        expected = torch.from_numpy(np.array(crop(image, generator))).permute(2, 0, 1)
        assert torch.equal(views[v // 2 if v < 2 else 1][v if v < 2 else v - 2], expected)
    # Fewer global views do not change them, another scale of theirs not the local ones.
    assert torch.equal(MultiCrop(24)(image, sample_rng(3, 2, 1))[0], views[0])
    wide = MultiCrop(24, global_scale=(0.9, 1.0), num_local=3, local_size=(12, 16))(image, sample_rng(3, 2, 1))
    assert torch.equal(wide[1], views[1]) and not torch.equal(wide[0], views[0])


def test_grey_images_become_three_equal_channels():
    (views,) = MultiCrop(16)(picture(1).convert("L"), sample_rng(0, 0, 0))
    assert views.shape == (2, 3, 16, 16) and (views == views[:, :1]).all()


def test_batches_of_one_and_of_two_sizes():
    rows = [{"image": picture(i), "label": i} for i in range(3)]
    one = ViewCollator()([ImageDataset(rows, MultiCrop(16, num_global=4))[i] for i in range(3)])
    assert one["pixel_values"].shape == (3, 4, 3, 16, 16) and one["labels"].tolist() == [0, 1, 2]
    dataset = ImageDataset(rows, CROPS)
    two = ViewCollator()([dataset[i] for i in (2, 0)])
    assert [tuple(group.shape) for group in two["pixel_values"]] == [(2, 2, 3, 24, 24), (2, 3, 3, 12, 16)]
    assert two["sample_index"].tolist() == [2, 0] and two["skipped"] == []
    assert torch.equal(two["pixel_values"][1][1], dataset[0]["pixel_values"][1])


@pytest.mark.parametrize("streaming", [False, True])
def test_unreadable_images_are_left_out_and_named(folder, streaming):
    images = load_images(folder, streaming=streaming)
    dataset = (IterableImageDataset if streaming else ImageDataset)(images, CROPS)
    samples = list(dataset) if streaming else [dataset[i] for i in range(len(dataset))]
    batch = ViewCollator()(samples)
    assert {Path(line.split(": ")[0]).name for line in batch["skipped"]} == CORRUPT
    assert len(batch["skipped"]) == 3 and [len(group) for group in batch["pixel_values"]] == [8, 8]
    assert len(batch["sample_index"]) == 8


def test_a_batch_of_which_nothing_can_be_read_has_no_row():
    dataset = ImageDataset([{"image": b"no image"}], CROPS)
    batch = ViewCollator()([dataset[0]])
    assert [tuple(group.shape) for group in batch["pixel_values"]] == [(0, 2, 3, 24, 24), (0, 3, 3, 12, 16)]
    assert len(batch["skipped"]) == 1 and len(batch["sample_index"]) == 0


def test_embedded_views_depend_on_seed_epoch_and_index_alone():
    views, again, other = (EmbeddedViews(50, CROPS, seed=seed) for seed in (0, 0, 1))
    assert equal(views[9]["pixel_values"], again[9]["pixel_values"])
    assert not equal(views[9]["pixel_values"], other[9]["pixel_values"])
    views.set_epoch(1)
    assert views.epoch == 1 and not equal(views[9]["pixel_values"], again[9]["pixel_values"])


def test_workers_do_not_change_views():
    batches = []
    for workers in (0, 2):
        loader = DataLoader(EmbeddedViews(16, CROPS), batch_size=8, num_workers=workers, collate_fn=ViewCollator())
        batches.append(
            [torch.cat(groups) for groups in zip(*(batch["pixel_values"] for batch in loader), strict=True)]
        )
    assert equal(*batches)


def test_embedded_views_are_windows_of_all_left_halves(monkeypatch):
    def marked(number: int) -> Image.Image:  # the left half says which picture, the right half is white
        pixels = np.full((120, 251 + number), 255, np.uint8)
        pixels[:, : pixels.shape[1] // 2] = number
        return Image.fromarray(pixels)

    monkeypatch.setattr(module, "pictures", lambda: tuple(map(marked, range(18))))
    module._left_halves.cache_clear()
    try:
        windows = []
        views = EmbeddedViews(400, lambda window, rng: windows.append(window), window=100)
        for i in range(400):
            _ = views[i]
    finally:
        module._left_halves.cache_clear()
    values = [np.unique(np.asarray(window)) for window in windows]
    assert {window.size for window in windows} == {(100, 100)} and all(len(value) == 1 for value in values)
    assert {int(value[0]) for value in values} == set(range(18))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiCrop(8, num_global=1), "at least two views.*num_global=1"),
        (lambda: MultiCrop(8, num_global=0, num_local=2, local_size=4), "num_global=0"),
        (lambda: MultiCrop(8, num_local=2), "num_local=2 views have no size"),
        (lambda: MultiCrop(8, global_scale=(0.5, 0.3)), "0.5, 0.3"),
        (lambda: EmbeddedViews(0, CROPS), "length=0"),
        (lambda: EmbeddedViews(5, CROPS, window=500), "window=500"),
        (lambda: EmbeddedViews(5, CROPS, seed=-1), "-1"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_index_out_of_range_is_named():
    with pytest.raises(IndexError, match="50 is out of range"):
        EmbeddedViews(50, CROPS)[50]
