"""The array operations that all samplers share."""

import numpy as np
import pytest
import torch

from hf_jepa.masking.counter_rng import hash_integers
from hf_jepa.masking.masks import batch_indices, box_indices, keep_random_tokens, rasterize_boxes


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
