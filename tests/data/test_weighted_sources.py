"""Mixtures have the shares of their weights, and every item is a function of seed, epoch and number."""

import numpy as np
import pytest
import torch
from clips import numbered
from torch.utils.data import DataLoader

from hf_jepa.data.images import ImageDataset
from hf_jepa.data.moving_digits import MovingDigits
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_transforms import clip_pretraining_transform
from hf_jepa.data.videos import UndecodableVideo, VideoCollator, VideoDataset
from hf_jepa.data.weighted_sources import WeightedSources


class Numbers:
    """A source whose samples are (name, row)."""

    def __init__(self, name, length):
        self.name, self.length, self.epochs = name, length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"row": (self.name, index), "sample_index": index, "labels": 1}

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def videos(frames_per_clip, rows=2, **fields):
    data = [{"video": np.stack([numbered(i) for i in range(30)]), "label": 0}] * rows
    return VideoDataset(data, clip_pretraining_transform(16), ClipSampling(frames_per_clip, frame_step=1), **fields)


def test_shares_are_those_of_the_weights_whatever_the_sizes():
    mixture = WeightedSources([Numbers("a", 3), Numbers("b", 1000)], [3.0, 1.0], length=8000)
    rows = [mixture[i]["row"] for i in range(8000)]
    share = sum(name == "a" for name, _ in rows) / 8000
    assert abs(share - 0.75) < 0.02
    counts = np.bincount([row for name, row in rows if name == "a"])
    assert len(counts) == 3 and counts.min() > 0.9 * counts.max()  # with replacement, rows alike
    assert len({row for name, row in rows if name == "b"}) > 700


def test_items_are_functions_of_seed_epoch_and_number():
    make = lambda seed=0: WeightedSources([Numbers("a", 50), Numbers("b", 50)], [1, 1], length=40, seed=seed)  # noqa: E731
    first, again = make(), make()
    order = [again[i] for i in reversed(range(40))][::-1]
    assert [first[i] for i in range(40)] == order
    assert [make(1)[i] for i in range(40)] != order
    again.set_epoch(1)
    assert again.epoch == 1 and again.sources[0].epochs == [1] and [again[i] for i in range(40)] != order
    sample = first[7]
    assert sample["sample_index"] == 7 and "labels" not in sample and first[-33] == sample


def images():
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return ImageDataset([{"image": picture}], pretraining_transform(16))


@pytest.mark.parametrize(
    ("make", "name"), [(lambda: videos(4, rows=1), "pixel_values_videos"), (images, "pixel_values")]
)
def test_a_row_drawn_twice_gets_another_crop(make, name):
    mixture = WeightedSources([make()], [1.0], length=6)
    crops = [mixture[i][name] for i in range(6)]
    assert all(not torch.equal(crops[0], other) for other in crops[1:])
    assert torch.equal(crops[3], WeightedSources([make()], [1.0], length=6)[3][name])


def test_sources_keep_their_lengths_and_skip_alike():
    broken = VideoDataset([{"video": b"nothing"}], clip_pretraining_transform(16), ClipSampling(8, frame_step=1))
    mixture = WeightedSources([videos(4), videos(8), broken], [1, 1, 1], length=30)
    loader = DataLoader(mixture, 30, collate_fn=VideoCollator(frame_counts=[8, 4]), num_workers=2)
    (batch,) = loader
    assert [clips.shape[1] for clips in batch["pixel_values_videos"]] == [8, 4]
    found = sorted(int(i) for index in batch["sample_index"] for i in index)
    missing = [i for i in range(30) if isinstance(mixture[i], UndecodableVideo)]
    assert sorted(found + missing) == list(range(30)) and len(batch["skipped"]) == len(missing) > 3
    assert mixture[missing[0]].sample_index == missing[0]


def test_endless_sources_fit():
    mixture = WeightedSources([MovingDigits(50, num_frames=4), videos(4)], [1, 1], length=10)
    assert {tuple(mixture[i]["pixel_values_videos"].shape) for i in range(10)} == {(4, 3, 64, 64), (4, 3, 16, 16)}


@pytest.mark.parametrize(
    ("sources", "weights", "length", "message"),
    [
        ([], [], None, "0 sources"),
        ([[1], [2]], [1.0], None, "2 sources and 1 weights"),
        ([[1]], [0.0], None, "got 0.0"),
        ([[1]], [float("nan")], None, "got nan"),
        ([[1], []], [1, 1], None, "source 1 is empty"),
        ([[1]], [1], 0, "length=0"),
    ],
)
def test_wrong_mixtures_are_named(sources, weights, length, message):
    with pytest.raises(ValueError, match=message):
        WeightedSources(sources, weights, length)


def test_length_and_range():
    mixture = WeightedSources([Numbers("a", 3), Numbers("b", 4)], [1, 1])
    assert len(mixture) == 7
    with pytest.raises(IndexError, match="index 7 is out of range for 7 items"):
        mixture[7]
