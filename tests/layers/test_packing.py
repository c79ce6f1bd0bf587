"""Batches of sequences go into one tensor and come back as they were."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from hf_jepa.layers.packing import Packing


def batches(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    """Tokens that know their batch, row and place."""
    return [
        torch.cartesian_prod(torch.tensor([b]), torch.arange(rows), torch.arange(length)).view(rows, length, 3)
        for b, (rows, length) in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    ("shapes", "packed"),
    [
        ([(2, 5)], (2, 5, 3)),
        ([(2, 5), (3, 5)], (5, 5, 3)),  # one length: stacked, so that the attention is one call
        ([(2, 5), (2, 4), (3, 6)], (1, 36, 3)),
    ],
)
def test_there_and_back(shapes, packed):
    parts, packing = batches(*shapes), Packing(shapes)
    x = packing.join(parts)
    assert tuple(x.shape) == packed
    for found, part in zip(packing.split(x), parts, strict=True):
        assert torch.equal(found, part)
    for lengths in ([3] * len(shapes), range(1, len(shapes) + 1)):
        kept = packing.last(lengths)
        last = kept.split(packing.take_last(x, kept))
        for found, part, length in zip(last, parts, lengths, strict=True):
            assert torch.equal(found, part[:, -length:])


@pytest.mark.parametrize("lengths", [(4, 4), (4, 6)])
def test_one_row_serves_all_of_its_batch(lengths):
    tables = [torch.randn(1, length, 2) for length in lengths]
    packing = Packing([(3, lengths[0]), (2, lengths[1])])
    for found, table, rows in zip(packing.split(packing.join(tables)), tables, (3, 2), strict=True):
        assert torch.equal(found, table.repeat(rows, 1, 1))


def test_other_lengths_need_no_other_graph():
    """Masks differ in length from step to step; a compiled model must not be compiled anew for each."""
    counter = CompileCounter()

    @torch.compile(backend=counter, dynamic=True)
    def through(first, second):
        packing = Packing([first.shape[:2], second.shape[:2]])
        return packing.split(packing.join([first, second]) * 2)[1]

    for n, m in ((3, 5), (4, 6), (7, 9), (8, 11), (5, 13)):
        through(torch.ones(2, n, 4), torch.ones(2, m, 4))
    assert counter.frame_count <= 2
