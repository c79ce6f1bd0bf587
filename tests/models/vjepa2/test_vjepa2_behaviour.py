"""What V-JEPA 2 promises beyond the recorded numbers: groups, grids, mask tokens."""

import pytest
import torch
from perturbed import perturbed

from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2Model
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vjepa2"].tiny
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make(**fields) -> VJepa2Model:
    """A model in which no parameter is 0 or 1, so that a mix-up shows."""
    torch.manual_seed(0)
    return perturbed(VJepa2Model(VJepa2Config(**(TINY | fields))), 0.1).eval()


@torch.no_grad()
def test_groups_are_predicted_on_their_own_grids():
    """From masked contexts and from everything; prediction (group, mask) is that of a call of its own."""
    model = make()
    groups = [torch.randn(2, 4, 3, 32, 32), torch.randn(1, 8, 3, 32, 48)]
    orders = [torch.stack([torch.randperm(n) for _ in range(rows)]) for n, rows in ((32, 2), (96, 1))]
    contexts = [[orders[0][:, :8], orders[0][:, 3:9]], [orders[1][:, :20]]]
    targets = [[orders[0][:, 9:12], orders[0][:, 12:20]], [orders[1][:, 20:25]]]
    for masks in (contexts, None):
        out = model(groups, context_mask=masks, target_mask=targets, mask_index=2)
        assert (out.masked_hidden_state is None) == (masks is None)
        predictions = iter(out.predictor_output.last_hidden_state)
        for g, group in enumerate(groups):
            for i, target in enumerate(targets[g]):
                whole = torch.arange(32 if g == 0 else 96).expand(len(group), -1)
                context = whole if masks is None else masks[g][i]
                encoded = model.encoder(group, context_mask=context).last_hidden_state
                grid = [(2, 4, 4), (4, 4, 6)][g]
                (expected,) = model.predictor([encoded], [context], [target], [grid], [2])
                torch.testing.assert_close(next(predictions), expected, **CLOSE)
        assert next(predictions, None) is None


@torch.no_grad()
def test_levels_come_in_the_order_asked_for():
    encoder, clip = make().encoder, torch.randn(1, 4, 3, 32, 32)
    first, last = encoder(clip, levels=[0, 1]).levels
    assert torch.equal(encoder(clip).last_hidden_state, last) and not torch.equal(first, last)
    found = encoder(clip, levels=[1, 0, -1]).levels
    assert all(torch.equal(a, b) for a, b in zip(found, (last, first, last), strict=True))
    assert encoder(clip).levels is None
    assert torch.equal(encoder(clip, levels=[-2]).levels[0], first)


@torch.no_grad()
def test_the_predictor_is_left_out_where_it_is_not_wanted():
    model, clip, mask = make(), torch.randn(1, 4, 3, 32, 32), torch.arange(5).unsqueeze(0)
    assert model(clip, target_mask=mask, skip_predictor=True).predictor_output is None
    assert model(clip).predictor_output is None
    assert model(clip, target_mask=mask).predictor_output.last_hidden_state.shape == (1, 5, 32)


@torch.no_grad()
def test_mask_tokens_repeat_after_the_last():
    model, clip, mask = make(pred_num_mask_tokens=3), torch.randn(1, 4, 3, 32, 32), torch.arange(5).unsqueeze(0)
    found = [model(clip, target_mask=mask, mask_index=i).predictor_output.last_hidden_state for i in (0, 1, 2, 3, 4)]
    assert torch.equal(found[3], found[0]) and torch.equal(found[4], found[1])
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


@pytest.mark.parametrize("zero", [True, False])
def test_start_of_the_mask_tokens(zero):
    tokens = VJepa2Model(VJepa2Config(**TINY, pred_zero_init_mask_tokens=zero)).predictor.embeddings.mask_tokens
    assert bool((tokens == 0).all()) == zero
    assert zero or 0.015 < tokens.std() < 0.025


def test_dropout_is_for_the_context_encoder_in_training():
    """Targets are those of evaluation, whatever drops out in the encoder that learns."""
    torch.manual_seed(0)
    model = VJepa2ForPreTraining(VJepa2Config(**TINY, attention_probs_dropout_prob=0.5, drop_path_rate=0.5))
    batch = torch.randn(2, 4, 3, 32, 32), [torch.arange(8).repeat(2, 1)], [torch.arange(8, 20).repeat(2, 1)]
    once, again = model.train()(*batch), model(*batch)
    assert torch.equal(once.targets[0], again.targets[0]) and not torch.equal(once.context[0], again.context[0])
    once, again = model.eval()(*batch), model(*batch)
    assert torch.equal(once.predictions[0], again.predictions[0])


@pytest.mark.parametrize(("rate", "expected"), [(0.3, [0.0, 0.15, 0.3]), (0.0, [0.0] * 3)])
def test_stochastic_depth_rises_along_the_layers(rate, expected):
    model = VJepa2Model(VJepa2Config(**(TINY | {"num_hidden_layers": 3}), drop_path_rate=rate))
    assert [layer.drop_path for layer in model.encoder.layer] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "width"),
    [({}, 200), ({"use_silu": True}, 136), ({"use_silu": True, "wide_silu": False}, 200), ({"wide_silu": True}, 200)],
)
def test_width_of_the_feed_forward_network(fields, width):
    """The gated network in its usual form has two thirds of the width, rounded up to a multiple of 8."""
    config = VJepa2Config(**(TINY | {"hidden_size": 40, "mlp_ratio": 5.0} | fields))
    assert config.intermediate_size == width
    mlp = VJepa2Model(config).encoder.layer[0].mlp
    assert mlp.fc1.out_features == width and hasattr(mlp, "fc3") == config.use_silu


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("mse", 2)])
def test_the_loss_is_that_of_the_config(kind, power):
    model = VJepa2ForPreTraining(VJepa2Config(**TINY, loss_type=kind)).eval()
    order = torch.randperm(32).repeat(2, 1)
    out = model(torch.randn(2, 4, 3, 32, 32), [order[:, :8]], [order[:, 8:20]])
    torch.testing.assert_close(out.loss, ((out.predictions[0] - out.targets[0]).abs() ** power).mean())


def test_projections_without_bias():
    model = VJepa2Model(VJepa2Config(**TINY, qkv_bias=False))
    for layer in (*model.encoder.layer, *model.predictor.layer):
        attention = layer.attention
        assert attention.query.bias is attention.key.bias is attention.value.bias is None


def test_activation_of_the_config():
    for fields, name in (({}, "GELUActivation"), ({"hidden_act": "relu"}, "ReLU")):
        model = VJepa2Model(VJepa2Config(**TINY, **fields))
        found = {type(layer.mlp.activation_fn).__name__ for layer in (*model.encoder.layer, *model.predictor.layer)}
        assert found == {name}


def test_clips_of_no_frames_are_refused():
    with pytest.raises(ValueError, match="0 frames of 32x32"):
        make().encoder(torch.zeros(1, 0, 3, 32, 32))
