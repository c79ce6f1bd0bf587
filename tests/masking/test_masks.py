"""The array operations that all samplers share."""

import numpy as np
import pytest
import torch

from hf_jepa.masking.counter_rng import hash_integers
from hf_jepa.masking.masks import (
    batch_indices,
    box_indices,
    keep_random_tokens,
    rasterize_boxes,
    split_at_random,
    union_of_boxes,
)


@pytest.mark.parametrize(("size", "grid"), [((3,), (7,)), ((2, 3), (4, 5)), ((1, 2, 4), (3, 4, 6))])
def test_boxes_of_any_dimension_equal_a_plain_painting(size, grid):
    room = np.array(grid) - size + 1
    start = (np.random.default_rng(0).random((2, 5, len(grid))) * room).astype(int)
    painted = rasterize_boxes(start, size, grid)
    indices = box_indices(start, size, grid)
    assert painted.shape == (2, 5, *grid) and painted.dtype == bool
    for i, j in np.ndindex(2, 5):
        expected = np.zeros(grid, dtype=bool)
        expected[tuple(slice(s, s + extent) for s, extent in zip(start[i, j], size, strict=True))] = True
        assert (painted[i, j] == expected).all()
        assert indices[i, j].tolist() == np.flatnonzero(expected).tolist()


def test_random_tokens_are_available_sorted_and_equally_likely():
    available = np.tile([True, False, True, True, True, False], (20_000, 1))
    kept = keep_random_tokens(available, 3, hash_integers(np.arange(20_000)[:, None], np.arange(6)))
    assert (np.diff(kept, axis=1) > 0).all()
    share = np.bincount(kept.ravel(), minlength=6) / 20_000
    assert share[[1, 5]].tolist() == [0, 0]
    np.testing.assert_allclose(share[[0, 2, 3, 4]], 0.75, atol=0.015)


@pytest.mark.parametrize("bad", [torch.zeros(2, 2, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.rand(3)])
def test_sample_index_must_be_a_row_of_integers(bad):
    with pytest.raises(ValueError, match="sample_index"):
        batch_indices(bad)
    with pytest.raises(TypeError, match="sample_index must be a LongTensor .*, got list"):
        batch_indices([0, 1])


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 6)])
def test_the_union_of_boxes_equals_their_paintings(grid):
    rng = np.random.default_rng(0)
    size = rng.integers(0, np.array(grid) + 1, (20, 3, len(grid)))
    start = (rng.random((20, 3, len(grid))) * (np.array(grid) - size + 1)).astype(int)
    united = union_of_boxes(start, size, grid)
    assert united.shape == (20, *grid) and united.dtype == bool
    for i in range(20):
        expected = [rasterize_boxes(start[i, j], tuple(size[i, j]), grid) for j in range(3)]
        assert (united[i] == np.any(expected, axis=0)).all()


def test_a_split_fills_up_from_the_other_side_and_stays_disjoint():
    covered = np.array([[True] * 4 + [False] * 4, [True] + [False] * 7, [False] + [True] * 7, [True] * 8])
    keys = hash_integers(np.arange(4)[:, None], np.arange(8))
    context, target = split_at_random(covered, 3, 4, keys)
    assert context.shape == (4, 3) and target.shape == (4, 4)
    assert (np.diff(context) > 0).all() and (np.diff(target) > 0).all()
    for row in range(4):
        assert not set(context[row]) & set(target[row])
        assert covered[row, target[row]].sum() == min(4, covered[row].sum())
        assert (~covered[row, context[row]]).sum() == min(3, (~covered[row]).sum())


def test_a_split_is_equally_likely_for_all_tokens_of_a_side():
    covered = np.tile([True, False, True, True, False, True, False], (20_000, 1))
    context, target = split_at_random(covered, 2, 3, hash_integers(np.arange(20_000)[:, None], np.arange(7)))
    for kept, side, share in ((context, ~covered[0], 2 / 3), (target, covered[0], 3 / 4)):
        found = np.bincount(kept.ravel(), minlength=7) / 20_000
        np.testing.assert_allclose(found[side], share, atol=0.015)
        assert (found[~side] == 0).all()


def test_equal_keys_do_not_break_a_split():
    context, target = split_at_random(np.tile([True, False], (2, 3)), 2, 2, np.zeros((2, 6), dtype=np.uint64))
    assert context.shape == target.shape == (2, 2)
