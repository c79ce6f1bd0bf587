"""The order of images and videos with texts: batches of one clip length, on all ranks, by weight, and resumed."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from clips import numbered
from shard_files import IMPATIENT, picture, write_tar
from tokenizer_families import vl_jepa_processor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from hf_jepa.data.digit_stories import DigitStories
from hf_jepa.data.shard_order import ShardSampler
from hf_jepa.data.shards import ShardOptions
from hf_jepa.data.videos import UndecodableVideo
from hf_jepa.data.vision_text import VisionTextDataset, VLJepaDataCollator
from hf_jepa.data.vision_text_mixture import (
    FrameCountSampler,
    MixedVisionText,
    frame_count_order,
    vision_text_sampler,
)
from hf_jepa.data.vision_text_sources import load_vision_text


def collator(**options):
    return VLJepaDataCollator(vl_jepa_processor(), **options)


# --- orders -------------------------------------------------------------------------------------------------------


def test_every_chunk_has_one_length_and_little_is_left_out():
    counts = np.random.default_rng(0).choice([1, 8, 16], 500, p=[0.5, 0.3, 0.2])
    orders = [frame_count_order(counts, seed=0, epoch=epoch, chunk=16) for epoch in range(12)]
    for order in orders:
        assert len(set(order.tolist())) == len(order) >= 500 - 3 * 15 and len(order) % 16 == 0
        chunks = counts[order].reshape(-1, 16)
        assert (chunks == chunks[:, :1]).all()
        assert len(set(chunks[: len(chunks) // 2, 0])) == 3  # the lengths take turns
    assert len({tuple(order) for order in orders}) == 12
    assert len(set(np.concatenate(orders).tolist())) == 500  # nothing is left out for ever
    assert (frame_count_order(counts, 0, 3, 16) == orders[3]).all() and (
        frame_count_order(counts, 1, 3, 16) != orders[3]
    ).any()
    with pytest.raises(ValueError, match="none of the 500 samples fill a chunk of 300"):
        frame_count_order(counts, 0, 0, 300)
    with pytest.raises(ValueError, match="got 0"):
        frame_count_order(counts, 0, 0, 0)


def mixed_rows(count=40):
    return [{"image" if i % 3 else "video": numbered(i), "target": f"{i}"} for i in range(count)]


def test_the_sampler_of_a_data_set(tmp_path):
    data = VisionTextDataset(mixed_rows(), seed=1)
    assert data.frame_counts.tolist() == [1 if i % 3 else 16 for i in range(40)]
    sampler = vision_text_sampler(data, lambda: 4, lambda: 8)
    assert isinstance(sampler, FrameCountSampler) and len(sampler) == len(list(sampler)) == 8 + 24
    first = list(sampler)
    sampler.set_epoch(1)
    assert data.epoch == 1 and list(sampler) == frame_count_order(data.frame_counts, 1, 1, 8).tolist() != first
    assert vision_text_sampler(data, lambda: 4).chunk() == 4
    assert vision_text_sampler(VisionTextDataset([{"video": "1.mp4", "target": "a"}] * 3), lambda: 4) is None
    assert vision_text_sampler(DigitStories(5), lambda: 4) is None
    rows = load_vision_text(write_tar(tmp_path / "a.tar", {"1.png": picture(1), "1.txt": b"a"}), media="image")
    assert isinstance(vision_text_sampler(VisionTextDataset(rows), lambda: 4), ShardSampler)
    mixture = MixedVisionText([DigitStories(5)], [1], chunk=8)
    assert isinstance(vision_text_sampler(mixture, lambda: 4), SequentialSampler)
    with pytest.raises(ValueError, match="chunk=8 of the mixture is no multiple of the batch size 3"):
        vision_text_sampler(mixture, lambda: 3)


def shards_of_pictures(folder, shards=4, rows=8):
    for shard in range(shards):
        members = {}
        for row in range(shard * rows, shard * rows + rows):
            members |= {f"{row:04}.png": picture(row), f"{row:04}.txt": f"caption {row}".encode()}
        write_tar(folder / f"pairs-{shard}.tar", members)
    return VisionTextDataset(load_vision_text(f"{folder}/pairs-{{0..{shards - 1}}}.tar", media="image"), seed=2)


def seen_by(batches, rank, ranks):
    return list(BatchSamplerShard(batches, ranks, rank))


def test_ranks_share_an_epoch_of_shards_and_resume_in_it(tmp_path):
    data = shards_of_pictures(tmp_path)
    batches = BatchSampler(vision_text_sampler(data, lambda: 4), 4, drop_last=True)
    ranks = [seen_by(batches, rank, 2) for rank in range(2)]
    rows = [[row for batch in rank for row in batch] for rank in ranks]
    assert not set(rows[0]) & set(rows[1]) and sorted(rows[0] + rows[1]) == list(range(32))
    assert not {row // 8 for row in rows[0]} & {row // 8 for row in rows[1]}  # each reads shards of its own
    loader = DataLoader(data, batch_sampler=ranks[0][2:], num_workers=2, collate_fn=collator())
    resumed = [batch["sample_index"].tolist() for batch in loader]
    assert resumed == ranks[0][2:]
    data.set_epoch(1)
    assert seen_by(batches, 0, 2) != ranks[0]


def test_a_shard_that_is_gone_is_skipped_by_name(tmp_path):
    shards_of_pictures(tmp_path)
    rows = load_vision_text(f"{tmp_path}/pairs-{{0..3}}.tar", media="image", shards=ShardOptions(IMPATIENT))
    (tmp_path / "pairs-2.tar").rename(tmp_path / "elsewhere")
    data = VisionTextDataset(rows)
    batch = collator()([data[i] for i in (0, 16, 17, 31)])
    assert batch["sample_index"].tolist() == [0, 31] and len(batch["skipped"]) == 2
    assert all(f"{tmp_path}/pairs-2.tar: 3 attempts" in reason for reason in batch["skipped"])
    (tmp_path / "elsewhere").rename(tmp_path / "pairs-2.tar")
    assert isinstance(data[16], UndecodableVideo)
    data.set_epoch(1)  # tries it again
    assert data[16]["target"] == "caption 16"


# --- mixtures -----------------------------------------------------------------------------------------------------


def sources():
    pictures = VisionTextDataset([{"image": numbered(i), "target": f"picture {i}"} for i in range(20)])
    return [pictures, DigitStories(300, num_frames=4), DigitStories(30, num_frames=4, task="question", seed=7)]


def test_a_mixture_keeps_weights_and_lengths():
    mixture = MixedVisionText(sources(), weights=[1, 1, 3], chunk=6, length=3000, seed=3)
    draws = np.array([mixture.draw(i) for i in range(3000)])
    shares = np.bincount(draws[:, 0]) / 3000
    assert np.abs(shares - np.array([1, 1, 3]) / 5).max() < 0.045  # the lengths are drawn five hundred times
    counts = mixture.frame_counts
    assert (counts == np.where(draws[:, 0] == 0, 1, 4)).all()
    chunks = counts.reshape(-1, 6)
    assert (chunks == chunks[:, :1]).all() and set(counts) == {1, 4}
    within = draws.reshape(-1, 6, 2)[chunks[:, 0] == 4, :, 0]
    assert (within != within[:, :1]).any(axis=1).mean() > 0.7  # sources of one length share chunks
    for source, size in enumerate((20, 300, 30)):
        assert len(set(draws[draws[:, 0] == source, 1])) > 0.7 * size
    sample = mixture[9]
    assert sample["sample_index"] == 9 and len(sample["video"]) == counts[9]
    again = MixedVisionText(sources(), weights=[1, 1, 3], chunk=6, length=3000, seed=3)
    assert again[9]["target"] == sample["target"]
    again.set_epoch(1)
    assert again.sources[1].epoch == 1 and (again.frame_counts != counts).any()


def test_batches_of_a_mixture_are_of_one_length_on_all_ranks():
    mixture = MixedVisionText(sources(), weights=[2, 1, 3], chunk=8, length=64)
    batches = BatchSampler(vision_text_sampler(mixture, lambda: 4), 4, drop_last=True)
    loaders = [
        DataLoader(mixture, batch_sampler=seen_by(batches, rank, 2), collate_fn=collator()) for rank in range(2)
    ]
    seen = []
    for one, other in zip(*loaders, strict=True):
        assert one["pixel_values_videos"].shape == other["pixel_values_videos"].shape
        seen += one["sample_index"].tolist() + other["sample_index"].tolist()
    assert sorted(seen) == list(range(64))
    with pytest.raises(ValueError, match="frames: take the samples in the order of vision_text_sampler"):
        torch.manual_seed(0)
        list(DataLoader(mixture, 4, sampler=RandomSampler(mixture), collate_fn=collator()))


def test_mixtures_refuse_what_they_cannot_keep_apart():
    with pytest.raises(ValueError, match=r"source 1 has clips of \[1, 16\] frames: open its images and its videos as"):
        MixedVisionText([DigitStories(5), VisionTextDataset(mixed_rows())], [1, 1], chunk=4)
    with pytest.raises(ValueError, match="got 0"):
        MixedVisionText([DigitStories(5)], [1], chunk=0)
    with pytest.raises(ValueError, match="weights must be positive, got 0"):
        MixedVisionText([DigitStories(5)], [0], chunk=4)
