"""What V-JEPA 2.1 adds to V-JEPA 2: two modalities in one pass, levels, a loss on visible tokens."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from perturbed import perturbed
from transformers import AutoConfig, AutoModel

from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import LEVELS, VJepa21Config
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21Encoder, VJepa21ForPreTraining, VJepa21Model
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vjepa2_1"].tiny
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make(**fields) -> VJepa21ForPreTraining:
    """A model in which no parameter is 0 or 1, so that a mix-up shows."""
    torch.manual_seed(0)
    return perturbed(VJepa21ForPreTraining(VJepa21Config(**(TINY | fields))), 0.1)


def masks(rows: int, tokens: int, *sizes: tuple[int, int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    order = torch.stack([torch.randperm(tokens, generator=torch.Generator().manual_seed(i)) for i in range(rows)])
    seen = [order[:, :n].sort().values for n, _ in sizes]
    return seen, [order[:, n : n + k].sort().values for n, k in sizes]


@pytest.fixture
def batches():
    """Clips of two lengths, images of two sizes; each with its masks."""
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(2, 4, 3, 32, 32, generator=g), *masks(2, 32, (9, 20), (5, 27))),
        (torch.randn(3, 3, 32, 48, generator=g), *masks(3, 24, (11, 12))),
        (torch.randn(1, 2, 3, 32, 32, generator=g), *masks(1, 16, (4, 9))),
        (torch.randn(2, 1, 3, 32, 32, generator=g), *masks(2, 16, (7, 6), (6, 6))),
    ]


def test_a_mixed_pass_equals_separate_passes(batches):
    weights = {"image_loss_weight": 0.3, "context_loss_weight": 0.7, "image_context_loss_weight": 0.2}
    model = make(**weights).train()
    clips, images = batches[0], batches[1]
    out = model(*map(list, zip(clips, images, strict=True)), context_loss_scale=0.5)
    out.loss.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = [model(*batch, context_loss_scale=0.5) for batch in (clips, images)]
    for field in ("predictions", "targets", "context", "context_predictions", "context_targets"):
        expected = [x for one in alone for x in one[field]]
        assert [x.shape for x in out[field]] == [x.shape for x in expected]
        for found, wanted in zip(out[field], expected, strict=True):
            torch.testing.assert_close(found, wanted, **CLOSE)
    for field in ("loss", "prediction_loss", "regularization_loss", "context_loss"):
        torch.testing.assert_close(out[field], 0.7 * alone[0][field] + 0.3 * alone[1][field])
    for one, weight in zip(alone, (0.7, 0.2), strict=True):
        torch.testing.assert_close(one.loss, one.prediction_loss + 0.5 * weight * one.context_loss)
    (0.7 * alone[0].loss + 0.3 * alone[1].loss).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert None not in trained.values()  # both modalities: every parameter learns
    assert trained.keys() == together.keys()
    for name, gradient in trained.items():
        torch.testing.assert_close(together[name], gradient, **CLOSE)


def test_groups_of_one_modality_have_mask_tokens_of_their_own(batches):
    model = make().eval()
    order = [batches[i] for i in (1, 0, 3, 2)]  # images, clips, images, clips
    out = model(*map(list, zip(*order, strict=True)))
    tokens = model.predictor.embeddings.mask_tokens
    start, used = 0, (0, 0, 1, 1)
    for batch, number in zip(order, used, strict=True):
        kept = tokens.detach().clone()
        with torch.no_grad():
            tokens[0] = kept[number]
        alone = model(*batch).predictions
        with torch.no_grad():
            tokens.copy_(kept)
        for found, expected in zip(out.predictions[start:], alone, strict=False):
            torch.testing.assert_close(found, expected, **CLOSE)
        start += len(alone)
    assert start == len(out.predictions) == 6


def test_loss_is_the_mean_over_pairs(batches):
    model = make(loss_type="mse", context_loss_distance=False).eval()
    out = model(*batches[0])
    for loss, found, expected in (
        (out.prediction_loss, out.predictions, out.targets),
        (out.context_loss, out.context_predictions, out.context_targets),
    ):
        pairs = zip(found, expected, strict=True)
        torch.testing.assert_close(loss, sum((a - b).square().mean() for a, b in pairs) / 2)
    few = (batches[0][0], *masks(2, 32, (9, 3), (5, 2)))  # so that some visible tokens are far from all targets
    weighted, alike = (make(context_loss_distance=by).eval()(*few).context_loss for by in (True, False))
    assert weighted < 0.95 * alike


def test_the_scale_of_the_context_loss_may_be_a_tensor(batches):
    model = make().eval()
    one, none = (model(*batches[0], context_loss_scale=torch.tensor(scale)) for scale in (1.0, 0.0))
    torch.testing.assert_close(one.loss, one.prediction_loss + 0.5 * one.context_loss)
    assert none.loss == none.prediction_loss == one.prediction_loss and none.context_loss == one.context_loss


def test_images_are_not_static_clips():
    encoder = make().context_encoder.eval()
    image = torch.randn(2, 3, 32, 48)
    found = encoder(image).last_hidden_state
    assert found.shape == (2, 24, 32) and encoder.token_grid(image) == (1, 4, 6)
    assert torch.equal(encoder(image.unsqueeze(1)).last_hidden_state, found)
    clip = image.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    assert encoder.token_grid(clip) == (1, 4, 6)
    assert not torch.allclose(encoder(clip).last_hidden_state, found, atol=0.1)
    features = encoder.get_video_features(image, layers=[0])
    assert features.grid.shape == features.layers[0].shape == (2, 1, 4, 6, 32)
    assert torch.equal(features.grid[:, 0, 1, 2], found[:, 8])


def test_positions_are_stretched_to_the_reference_grid():
    """A grid of 4 with a reference of 7 has positions 0, 2, 4, 6: every second token of a grid of 7 that counts."""
    stretched = make(rope_grid_size=7).context_encoder.eval()
    counted = make(rope_interpolation=False).context_encoder.eval()
    pixels = torch.randn(1, 3, 32, 32)
    large = torch.zeros(1, 3, 56, 56).unflatten(2, (7, 8)).unflatten(4, (7, 8))
    large[:, :, ::2, :, ::2] = pixels.unflatten(2, (4, 8)).unflatten(4, (4, 8))
    large = large.flatten(4, 5).flatten(2, 3)
    tokens = torch.arange(49).view(7, 7)[::2, ::2].reshape(1, 16)
    expected = counted(large, context_mask=tokens).last_hidden_state
    torch.testing.assert_close(stretched(pixels).last_hidden_state, expected, **CLOSE)
    row = torch.randn(1, 3, 8, 24)  # one row of tokens divides nothing by zero
    assert stretched(row).last_hidden_state.isfinite().all()


def test_without_modality_embedding_or_context_prediction(batches):
    model = make(modality_embedding=False, predict_context=False).train()
    assert not any("modality" in name or "proj_context" in name for name in model.state_dict())
    out = model(*map(list, zip(*batches[:2], strict=True)))
    assert out.context_predictions is out.context_targets is out.context_loss is out.regularization_loss is None
    assert out.loss == out.prediction_loss
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_fewer_levels_for_the_predictor(batches):
    model = make(pred_num_levels=1).train()
    out = model(*batches[0])
    assert out.predictions[0].shape[-1] == out.context[0].shape[-1] == 32
    encoded = model.context_encoder(batches[0][0], context_mask=batches[0][1]).last_hidden_state
    assert all(torch.equal(a, b) for a, b in zip(out.context, encoded, strict=True))
    out.loss.backward()
    assert all(p.grad is None for p in model.context_encoder.level_layernorms.parameters())


def test_targets_are_normalised_level_by_level(batches):
    model = make().eval()
    clips, _, wanted = batches[0]
    for targets in model.encode_targets(clips, wanted):
        level = targets.unflatten(-1, (2, 32))
        torch.testing.assert_close(level.mean(-1), torch.zeros(level.shape[:-1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(level.var(-1, unbiased=False), torch.ones(level.shape[:-1]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_targets_may_be_left_as_they_are(batches):
    model = make(target_normalization="none").eval()
    clips, seen, wanted = batches[0]
    levels = torch.cat(model.target_encoder(clips, levels=[0, 1]).levels, dim=-1)
    out = model(clips, seen, wanted)
    for found, masks in ((out.targets, wanted), (out.context_targets, seen)):
        for targets, mask in zip(found, masks, strict=True):
            torch.testing.assert_close(targets, torch.stack([row[m] for row, m in zip(levels, mask, strict=True)]))


def test_predictions_by_the_base_model(batches):
    model = make().eval()
    clips, seen, wanted = batches[0]
    model.update_target_encoder(0.0)
    trained = model(clips, seen, wanted).predictions
    found = model.base_model(clips, seen, wanted, mask_index=0).predictor_output.last_hidden_state
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, trained, strict=True))
    image, seen, wanted = batches[1]
    (expected,) = model(image, seen, wanted).predictions
    found = model.base_model(image, seen[0], wanted[0], mask_index=0).predictor_output.last_hidden_state
    torch.testing.assert_close(found, expected, **CLOSE)
    assert model.base_model(image, target_mask=wanted[0], skip_predictor=True).predictor_output is None
    # Without a context mask the whole group is context; the targets here lie in the future, or anywhere.
    everything = model.base_model([clips, image], target_mask=[[torch.arange(32, 40).expand(2, -1)], wanted])
    assert [tuple(x.shape) for x in everything.predictor_output.last_hidden_state] == [(2, 8, 64), (3, 12, 64)]


def test_a_checkpoint_is_one_of_this_variant_and_no_native_one(tmp_path):
    model = make().eval()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is VJepa21Config
    found = AutoModel.from_pretrained(tmp_path).eval()
    assert type(found) is VJepa21Model
    image = torch.randn(1, 3, 32, 32)
    expected = model.target_encoder(image, levels=[0, 1])
    for a, b in zip(found.encoder(image, levels=[0, 1]).levels, expected.levels, strict=True):
        assert torch.equal(a, b)
    again = VJepa21ForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in again.target_encoder.parameters())


def test_modality_embeddings_start_near_zero():
    model = VJepa21ForPreTraining(VJepa21Config(**TINY))
    for part in (model.context_encoder, model.predictor):
        for vector in part.embeddings.modality.parameters():
            assert 0 < vector.abs().max() < 1e-5


def test_a_model_with_heads_of_a_teacher_is_not_trained_without_it(batches):
    model = make(pred_num_levels=1, teacher_hidden_size=48)
    found = model.base_model(batches[0][0], *(m[0] for m in batches[0][1:])).predictor_output.last_hidden_state
    assert found.shape == (2, 20, 48)
    with pytest.raises(ValueError, match="teacher of width 48.*teacher_hidden_size=None"):
        model(*batches[0])


def test_heads_of_a_teacher_can_be_replaced(tmp_path, batches):
    make(pred_num_levels=1, teacher_hidden_size=48).save_pretrained(tmp_path)
    model = VJepa21ForPreTraining.from_pretrained(tmp_path, teacher_hidden_size=None, ignore_mismatched_sizes=True)
    assert model(*batches[0]).predictions[0].shape[-1] == 32


def test_layers_without_a_norm_are_refused():
    encoder = VJepa21Encoder(VJepa21Config(**(TINY | {"levels": [1]})))
    image = torch.randn(1, 3, 32, 32)
    for call, name in ((encoder.get_video_features, "layers"), (encoder, "levels")):
        with pytest.raises(ValueError, match=r"layers \[0\] are not among the levels \[1\]"):
            call(image, **{name: [0]})
        with pytest.raises(ValueError, match=r"layers \[2\] do not exist"):
            call(image, **{name: [2]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": None}, "num_hidden_layers 2"),
        ({"levels": [1, 0]}, r"levels \[1, 0\]"),
        ({"levels": [0]}, r"levels \[0\]"),
        ({"levels": []}, r"levels \[\]"),
        ({"levels": [-1, 1]}, r"levels \[-1, 1\]"),
        ({"pred_num_levels": 3}, "pred_num_levels is 3"),
        ({"teacher_hidden_size": 0}, "teacher_hidden_size"),
        ({"context_loss_weight": -0.5}, "context_loss_weight must be at least 0, got -0.5"),
        ({"image_context_loss_weight": -1.0}, "image_context_loss_weight"),
        ({"image_loss_weight": 1.5}, "image_loss_weight"),
    ],
)
def test_config_refuses_wrong_values(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        VJepa21Config(**(TINY | fields))
    with pytest.raises(ValueError, match="vit_nano"):
        VJepa21Config.from_size("vit_nano")


@pytest.mark.parametrize(("depth", "levels"), [(12, 4), (24, 4), (40, 4), (48, 4)])
def test_official_levels(depth, levels):
    config = VJepa21Config(num_hidden_layers=depth)
    assert len(config.level_indices) == levels and config.level_indices[-1] == depth - 1
    assert config.pred_levels == config.level_indices and config.pred_output_size == 4 * config.hidden_size


def test_official_levels_are_the_released_ones():
    assert LEVELS == {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}


def test_targets_have_no_gradient_even_if_the_pixels_want_one(batches):
    clips, seen, wanted = batches[0]
    out = make()(clips.requires_grad_(), seen, wanted)
    assert not any(target.requires_grad for target in (*out.targets, *out.context_targets))
    assert not any(target.requires_grad for target in make().encode_targets(clips, wanted))
