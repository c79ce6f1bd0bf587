"""Clips, levels and views of a video reach the probe as in the official evaluations of V-JEPA and V-JEPA 2."""

import official_probe
import pytest
import torch
from torch import nn

from hf_jepa.layers.views import join_clips, view_loss, view_probabilities


CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def stub_levels(io, count):
    """Features of the recorded stub encoder: one convolution whose channels are split into levels (B, S, V, N, D)."""
    videos = io["agg_views"].permute(2, 0, 1, 3, 4, 5, 6)  # (clips, views, B, C, T, H, W) -> (B, S, V, C, T, H, W)
    out = nn.functional.conv3d(
        videos.flatten(0, 2), io["agg_stub_conv_weight"], io["agg_stub_conv_bias"], stride=(2, 8, 8)
    )
    tokens = out.flatten(2).transpose(1, 2).unflatten(0, videos.shape[:3])  # (B, S, V, N, D)
    return tokens.chunk(count, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize(("name", "levels"), [("vjepa/attentive_probe", 1), ("vjepa2/attentive_classifier", 2)])
def test_clips_and_views_are_brought_together_as_in_the_official_code(name, levels):
    config, io, state = official_probe.read(name)
    features = stub_levels(io, levels)
    joined = join_clips(features[0] if levels == 1 else features)  # (B, V, tokens, D)
    torch.testing.assert_close(joined.transpose(0, 1), io["agg_features"], **CLOSE)
    pooled = official_probe.load(state, config["num_heads"])(joined.flatten(0, 1))[:, 0]
    logits = official_probe.head(state, pooled).unflatten(0, joined.shape[:2])  # (B, V, C)
    if "agg_logits" in io:
        torch.testing.assert_close(logits.transpose(0, 1), io["agg_logits"], **CLOSE)
    torch.testing.assert_close(view_probabilities(logits), io["agg_probs"], **CLOSE)
    assert (logits.mean(1).softmax(-1) - io["agg_probs"]).abs().max() > 1e-4  # the mean of logits is something else


def test_tokens_of_a_clip_stay_together():
    batch, clips, views, tokens, levels = 2, 3, 4, 5, 2
    names = torch.cartesian_prod(*(torch.arange(n) for n in (batch, clips, views, tokens))).float()
    grid = names.view(batch, clips, views, tokens, 4)
    joined = join_clips([torch.cat([grid, torch.full_like(grid[..., :1], level)], -1) for level in range(levels)])
    for b in range(batch):
        for v in range(views):
            rows = [[b, s, v, n, level] for s in range(clips) for level in range(levels) for n in range(tokens)]
            assert joined[b, v].tolist() == rows


def test_the_loss_is_the_mean_over_views():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 5), torch.tensor([0, 4, 2, 2])
    views = [nn.functional.cross_entropy(logits[:, v], labels) for v in range(3)]
    torch.testing.assert_close(view_loss(logits, labels), torch.stack(views).mean())
    averaged = nn.functional.nll_loss(view_probabilities(logits).log(), labels)
    assert view_loss(logits, labels) > averaged + 1e-2  # which the loss of averaged probabilities is not
    labels[1] = -100
    torch.testing.assert_close(view_loss(logits, labels), view_loss(logits[[0, 2, 3]], labels[[0, 2, 3]]))
    assert view_probabilities(logits.bfloat16()).dtype == torch.float32


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[\(2, 3, 4, 5\)\]"):
        join_clips(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="must all be"):
        join_clips([torch.zeros(2, 3, 4, 5, 6), torch.zeros(2, 3, 4, 9, 6)])
    with pytest.raises(ValueError, match="got shapes"):
        join_clips([])
    with pytest.raises(ValueError, match=r"\(batch, views, classes\), got \(2, 3\)"):
        view_probabilities(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"labels have shape \(6,\), but there are 2 videos"):
        view_loss(torch.zeros(2, 3, 4), torch.zeros(6, dtype=torch.long))
