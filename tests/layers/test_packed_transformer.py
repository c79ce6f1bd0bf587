"""The packed layer is one pass per batch, whatever the lengths, and leaves out nothing that it must not."""

import pytest
import torch
from transformers import PreTrainedConfig

from hf_jepa.layers.packed_transformer import PackedAttention, PackedTransformerLayer
from hf_jepa.layers.packing import Packing
from hf_jepa.layers.rotary import grid_positions, rotary_tables


DIM, HEADS, ROWS = 24, 2, (2, 3)


def config(implementation: str = "sdpa") -> PreTrainedConfig:
    return PreTrainedConfig(attn_implementation=implementation)


def make(**fields) -> PackedTransformerLayer:
    torch.manual_seed(0)
    return PackedTransformerLayer(config(), DIM, HEADS, 2 * DIM, **fields)


def tables(length: int, rows: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    positions = grid_positions(torch.arange(start, start + rows * length).view(rows, length), (9, 3, 5))
    cos, sin = rotary_tables(positions, DIM // HEADS, "interleaved")
    return cos.unsqueeze(2), sin.unsqueeze(2)


@torch.no_grad()
@pytest.mark.parametrize("wanted", [None, (4, 4), (2, 5)])
@pytest.mark.parametrize("lengths", [(7, 7), (6, 9)])
@pytest.mark.parametrize("turned", [False, True])
def test_one_pass_equals_one_pass_per_batch(lengths, wanted, turned):
    """Equal or different numbers of tokens, and of last tokens that are wanted: four ways to pack."""
    layer = make().eval()
    parts = [torch.randn(rows, length, DIM) for rows, length in zip(ROWS, lengths, strict=True)]
    packing = Packing([part.shape[:2] for part in parts])
    kept = wanted and packing.last(wanted)
    rotary = [tables(length, rows, 5) for rows, length in zip(ROWS, lengths, strict=True)] if turned else None
    packed = rotary and tuple(packing.join(side) for side in zip(*rotary, strict=True))
    found = (kept or packing).split(layer(packing.join(parts), packing, packed, kept))
    for i, part in enumerate(parts):
        expected = layer(part, Packing([part.shape[:2]]), rotary and rotary[i])
        expected = expected[:, -wanted[i] :] if wanted else expected
        torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-5)


def test_weights_of_the_attention_come_batch_by_batch():
    attention = PackedAttention(config("eager"), DIM, HEADS)
    parts = [torch.randn(2, 4, DIM), torch.randn(1, 6, DIM)]
    packing = Packing([part.shape[:2] for part in parts])
    _, weights = attention(packing.join(parts), packing, kept=packing.last([3, 2]))
    assert [tuple(weight.shape) for weight in weights] == [(2, HEADS, 3, 4), (1, HEADS, 2, 6)]
    for weight in weights:
        torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]))


def test_dropout_of_attention_weights_is_for_training():
    layer, x = make(attention_dropout=0.5), torch.randn(2, 5, DIM)
    packing = Packing([x.shape[:2]])
    assert torch.equal(layer.eval()(x, packing), make().eval()(x, packing))
    assert not torch.allclose(layer.train()(x, packing), layer(x, packing))


def test_stochastic_depth_keeps_the_mean():
    """What is not left out is scaled by 1 / (1 - rate), sample by sample, also where only the last tokens stay."""
    layer = make(drop_path=0.5)
    x = torch.randn(1, 4, DIM).repeat(64, 1, 1)
    packing = Packing([(40, 4), (24, 4)])
    kept = packing.last([2, 1])
    plain = make().eval()(x[:1], Packing([(1, 4)]))
    assert torch.equal(layer.eval()(x[:1], Packing([(1, 4)])), plain)
    attended = x[:1] + 2 * layer.attention(layer.norm1(x[:1]), Packing([(1, 4)]))[0]
    parts = kept.split(layer.train()(x, packing, kept=kept))
    for part, tokens in zip(parts, (2, 1), strict=True):
        outcomes = []  # neither branch, the attention alone, the feed-forward network alone, both
        for stream in (x[:1, -tokens:], attended[:, -tokens:]):
            outcomes += [stream, stream + 2 * layer.mlp(layer.norm2(stream))]
        distance = torch.stack([(part - outcome).abs().amax((1, 2)) for outcome in outcomes])
        assert distance.amin(0).max() < 1e-5  # every sample is one of the four
        assert set(distance.argmin(0).tolist()) == {0, 1, 2, 3}  # and each happens
