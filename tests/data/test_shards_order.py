"""The order of an epoch over shards: complete, shuffled, and in parts that processes and workers do not share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from shard_files import EVEN, SIZES, write_tars
from torch.utils.data import BatchSampler, DataLoader

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.shard_names import find_shards
from hf_jepa.data.shard_order import ShardSampler, default_lanes, lane_cuts, shard_order
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.masking.multiblock import MultiBlockMaskSampler


def groups_of(sizes, largest=5):
    """Groups of at most so many rows."""
    return [np.array([min(largest, size - at) for at in range(0, size, largest)], np.int64) for size in sizes]


def batches_of(order, size, processes, rank, drop_last=False):
    return list(BatchSamplerShard(BatchSampler(order, size, drop_last), processes, rank, even_batches=False))


def readers(order, batch_size, sizes, processes, workers):
    """Of every shard the (rank, worker) pairs that read from it."""
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    found = [set() for _ in sizes]
    for rank in range(processes):
        for number, batch in enumerate(batches_of(order, batch_size, processes, rank)):
            for row in batch:
                found[shard_of[row]].add((rank, number % max(1, workers)))
    return found


@pytest.mark.parametrize("lanes", [None, 1, 3, 8, 50])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_every_row_is_there_once(lanes, chunk):
    for sizes in (SIZES, EVEN, (1,), (5, 0, 3), (0, 0, 40)):
        order = list(shard_order(groups_of(sizes), 0, 2, chunk, lanes))
        assert sorted(order) == list(range(sum(sizes)))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_divide_an_epoch(processes, workers):
    order = list(shard_order(groups_of(SIZES), 0, 0, 4))
    parts = [batch for rank in range(processes) for batch in batches_of(order, 4, processes, rank)]
    assert sorted(row for batch in parts for row in batch) == list(range(sum(SIZES)))
    # Eight lanes have seven cuts, each of which falls into one shard.
    shared = sum(len(each) - 1 for each in readers(order, 4, SIZES, processes, workers))
    assert shared <= 7
    even = list(shard_order(groups_of(EVEN), 0, 0, 4))
    found = readers(even, 4, EVEN, processes, workers)
    assert all(len(each) == 1 for each in found)
    assert len(set.union(*found)) == processes * max(1, workers)  # none without a share


def test_a_batch_is_of_one_part():
    """So that the shards of a part are read by one worker at a time; only the last batch is incomplete."""
    for rows, lanes in ((23, 3), (72, 8), (64, 8), (3, 4), (8, 3)):
        cuts = lane_cuts(rows, 4, lanes)
        assert cuts[0] == 0 and cuts[-1] == rows and cuts == sorted(cuts)
        sizes = np.diff(cuts)
        assert max(sizes) - min(sizes) <= 4 and sum(size % 4 > 0 for size in sizes) <= 1
        lane_of = np.repeat(np.arange(lanes), sizes)
        order = list(shard_order([np.array([rows])], 0, 0, 4, lanes))
        place = {row: number for number, row in enumerate(shard_order([np.array([rows])], 0, 0, rows, 1))}
        batches = [order[at : at + 4] for at in range(0, rows, 4)]
        assert [{int(lane_of[place[row]]) for row in batch} for batch in batches] == [
            {number % lanes} for number in range(len(batches))
        ]


def test_epochs_and_seeds_differ_and_repeat():
    groups = groups_of(SIZES)
    orders = {(seed, epoch): tuple(shard_order(groups, seed, epoch, 4)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 6
    assert tuple(shard_order(groups, 1, 2, 4)) == orders[1, 2]


def test_rows_stay_beside_their_group_and_are_shuffled():
    order = list(shard_order(groups_of((20, 20), 10), 0, 0, chunk=5, lanes=1))
    assert [sorted(order[at : at + 10]) for at in range(0, 40, 10)] == [
        list(range(10 * (order[at] // 10), 10 * (order[at] // 10) + 10)) for at in range(0, 40, 10)
    ]
    assert order[:20] != sorted(order[:20]) and order[:10] != sorted(order[:10])


def test_every_place_in_an_epoch_is_open_to_every_row():
    first = [next(shard_order(groups_of((4, 4), 2), 0, epoch, 2)) for epoch in range(400)]
    counts = np.bincount(first, minlength=8)
    assert counts.min() > 25 and counts.max() < 80  # 50 on average


def test_the_global_batches_depend_on_the_chunk_and_not_on_the_processes():
    order = list(shard_order(groups_of(SIZES), 0, 1, 8))
    alone = batches_of(order, 8, 1, 0, drop_last=True)
    for processes in (2, 4):
        shares = [batches_of(order, 8 // processes, processes, rank, drop_last=True) for rank in range(processes)]
        assert [sum(step, []) for step in zip(*shares, strict=True)] == alone


def test_wrong_settings():
    with pytest.raises(ValueError, match="got 0 and 8"):
        list(shard_order(groups_of(SIZES), 0, 0, 0))
    with pytest.raises(ValueError, match="got None and 0"):
        ShardOptions(lanes=0)
    assert default_lanes(64) == 64 and default_lanes(63) == 32


def test_the_sampler_has_the_epoch_of_its_data_set():
    rows = SimpleNamespace(groups=groups_of(SIZES), options=ShardOptions(chunk=5, lanes=3))
    dataset = SimpleNamespace(dataset=rows, seed=4, epoch=2)
    assert list(ShardSampler(dataset, lambda: 8)) == list(shard_order(rows.groups, 4, 2, 5, 3))
    rows.options = ShardOptions()
    assert list(ShardSampler(dataset, lambda: 8)) == list(shard_order(rows.groups, 4, 2, 8))


def test_crops_and_masks_do_not_depend_on_ranks_or_workers(tmp_path, datasets_cache):
    shards = find_shards(write_tars(tmp_path))
    masks = MultiBlockMaskSampler((6, 6), min_keep=3)
    known = {}
    for processes, workers in ((1, 0), (2, 2), (4, 0)):
        dataset = ImageDataset(ShardedRows(shards), pretraining_transform(48), seed=3)
        sampler = ShardSampler(dataset, lambda: 4)
        sampler.set_epoch(1)
        found = {}
        for rank in range(processes):
            share = BatchSamplerShard(BatchSampler(sampler, 4, False), processes, rank, even_batches=False)
            for batch in DataLoader(dataset, batch_sampler=share, num_workers=workers, collate_fn=ImageCollator()):
                drawn = masks(batch["sample_index"], step=7, epoch=1)
                for place, index in enumerate(batch["sample_index"].tolist()):
                    assert index not in found and batch["labels"][place] == index
                    found[index] = [batch["pixel_values"][place], *(mask[place] for kind in drawn for mask in kind)]
        assert sorted(found) == list(range(sum(SIZES)))
        known = known or found
        assert all(torch.equal(x, y) for index in found for x, y in zip(found[index], known[index], strict=True))
