"""Frame-causal attention without a mask is attention with one; what is kept of past frames changes nothing."""

import pytest
import torch
from transformers import PreTrainedConfig

from hf_jepa.layers.frame_causal import FrameCache, FrameCausalLayer, join_pieces
from hf_jepa.layers.rotary import grid_positions, rotary_tables, rotate


FRAMES, TOKENS, DIM = 4, 5, 24


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def layer(request):
    torch.manual_seed(0)
    return FrameCausalLayer(PreTrainedConfig(attn_implementation=request.param), DIM, 2, 48).eval()


def rotary(first: int = 0, frames: int = FRAMES):
    positions = grid_positions(torch.arange(first * TOKENS, (first + frames) * TOKENS), (FRAMES, 1, TOKENS))
    return tuple(table[None, :, None] for table in rotary_tables(positions, DIM // 2, "tiled"))


def frames_of(rows: int) -> torch.Tensor:
    return torch.randn(rows, FRAMES * TOKENS, DIM, generator=torch.Generator().manual_seed(1))


def masked(layer, hidden_states) -> torch.Tensor:
    """The layer by the book: all tokens attend to all, and a table says what they must not see."""
    attention, normed = layer.attention, layer.norm1(hidden_states)
    query, key, value = (
        part(normed).unflatten(-1, (2, -1)) for part in (attention.query, attention.key, attention.value)
    )
    query, key = rotate(query, *rotary()), rotate(key, *rotary())
    frame = torch.arange(FRAMES).repeat_interleave(TOKENS)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * attention.scaling
    scores = scores.masked_fill(frame[:, None] < frame[None, :], float("-inf"))
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(-2)
    hidden_states = hidden_states + attention.proj(out)
    return hidden_states + layer.mlp(layer.norm2(hidden_states))


@torch.no_grad()
def test_it_is_attention_with_a_mask(layer):
    x = frames_of(3)
    found, keys, values = layer(x, FRAMES, rotary())
    torch.testing.assert_close(found, masked(layer, x), rtol=1e-5, atol=1e-5)
    assert keys.shape == values.shape == (3, FRAMES * TOKENS, 2, DIM // 2)


@torch.no_grad()
def test_what_comes_later_changes_nothing_unless_it_is_seen(layer):
    x = frames_of(1)
    changed = x.clone()
    changed[:, -TOKENS:] += 1
    for causal in (True, False):
        first, second = (layer(each, FRAMES, rotary(), (), causal)[0][:, :-TOKENS] for each in (x, changed))
        assert torch.equal(first, second) is causal


@torch.no_grad()
def test_frames_after_what_was_kept(layer):
    x = frames_of(2)
    whole, *_ = layer(x, FRAMES, rotary())
    cache, found = FrameCache(), []
    for first, frames in ((0, 2), (2, 1), (3, 1)):
        own = x[:, first * TOKENS : (first + frames) * TOKENS]
        out, *new = layer(own, frames, rotary(first, frames), cache.of_layer(0))
        cache = cache.extended([tuple(new)], frames)
        found.append(out)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-5, atol=1e-5)
    assert cache.num_frames == FRAMES and len(cache.layers[0]) == 3


@torch.no_grad()
def test_what_rows_share_is_kept_once(layer):
    x = frames_of(2)
    _, *new = layer(x[:, :TOKENS], 1, rotary(0, 1))
    shared = FrameCache().extended([tuple(new)], 1)
    samples = frames_of(6)[:, : 3 * TOKENS]  # three of each row
    found, *_ = layer(samples, 3, rotary(1, 3), shared.of_layer(0))
    for row, sample in enumerate(samples):
        own, *_ = layer(sample[None], 3, rotary(1, 3), shared[row // 3 : row // 3 + 1].of_layer(0))
        torch.testing.assert_close(found[row : row + 1], own, rtol=1e-5, atol=1e-5)


def test_the_first_frames_of_a_cache():
    keys, values = torch.randn(2, 2, 3 * TOKENS, 2, 12).unbind()
    cache = FrameCache().extended([(keys, values)], 3).first(1)
    assert cache.num_frames == 1
    assert torch.equal(cache.layers[0][0][0], keys[:, :TOKENS]) and torch.equal(
        cache.layers[0][0][1], values[:, :TOKENS]
    )


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(RuntimeError):
        join_pieces([torch.zeros(2, 1), torch.zeros(3, 1)])
