"""What V-JEPA promises beyond the recorded numbers: sizes, masks, images, types, errors."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from perturbed import perturbed
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from hf_jepa.layers.position import sincos_2d
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig
from hf_jepa.models.vjepa.modeling_vjepa import VJepaForPreTraining, VJepaModel, position_table
from hf_jepa.registry import VARIANTS


CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TINY = VARIANTS["vjepa"].tiny


def generic(model: torch.nn.Module) -> torch.nn.Module:
    """A model in which no parameter is 0 or 1, so that a mix-up shows."""
    return perturbed(model, 0.1).eval()


def pretraining_model(**fields) -> VJepaForPreTraining:
    torch.manual_seed(0)
    return generic(VJepaForPreTraining(VJepaConfig(**(TINY | fields))))


def orders(rows: int, tokens: int) -> torch.Tensor:
    return torch.stack([torch.randperm(tokens) for _ in range(rows)])


def two_groups():
    """Two clips of 4 frames at 32x32 with two masks, and one of 8 frames at 32x48 with three."""
    a, b = torch.randn(2, 4, 3, 32, 32), torch.randn(1, 8, 3, 32, 48)
    p, q = orders(2, 32), orders(1, 96)
    contexts = [[p[:, :8], p[:, 4:9]], [q[:, :20], q[:, :7], q[:, 3:9]]]
    targets = [[p[:, 8:20], p[:, 12:]], [q[:, 30:50], q[:, 50:53], q[:, 60:70]]]
    return [a, b], contexts, targets


def test_packed_pairs_equal_separate_passes():
    model = pretraining_model(pred_num_mask_tokens=3)
    clips, contexts, targets = two_groups()
    together = model(clips, contexts, targets)
    index = 0
    for group, group_contexts, group_targets in zip(clips, contexts, targets, strict=True):
        for i, (context, target) in enumerate(zip(group_contexts, group_targets, strict=True)):
            encoded = model.context_encoder(group, context_mask=context).last_hidden_state
            grid = model.context_encoder.token_grid(group)
            (alone,) = model.predictor([encoded], [context], [target], [grid], [i])
            torch.testing.assert_close(together.context[index], encoded, **CLOSE)
            torch.testing.assert_close(together.predictions[index], alone, **CLOSE)
            full = model.target_encoder(group).last_hidden_state
            full = torch.nn.functional.layer_norm(full, full.shape[-1:])
            wanted = full.gather(1, target.unsqueeze(-1).expand(-1, -1, full.shape[-1]))
            torch.testing.assert_close(together.targets[index], wanted, **CLOSE)
            index += 1
    losses = [(p - t).abs().mean() for p, t in zip(together.predictions, together.targets, strict=True)]
    torch.testing.assert_close(together.loss, torch.stack(losses).mean(), **CLOSE)


def test_mask_i_uses_mask_token_i_in_every_group():
    model = pretraining_model()  # two tokens: mask 2 uses token 0 again
    batch = two_groups()
    before = model(*batch).predictions
    with torch.no_grad():
        model.predictor.embeddings.mask_tokens[1] += 1.0
    moved = [not torch.equal(x, y) for x, y in zip(before, model(*batch).predictions, strict=True)]
    assert moved == [False, True, False, True, False]


def test_files_with_the_old_name_of_the_variance_weight_are_read():
    assert VJepaConfig.from_dict(TINY | {"variance_coefficient": 0.5}).variance_weight == 0.5


def test_variance_term_of_several_groups():
    model = pretraining_model(variance_weight=2.0)
    clips, contexts, targets = two_groups()
    out = model(clips, contexts, targets)
    lacks = []
    for group in (out.predictions[:2], out.predictions[2:]):
        std = sum((x.var(dim=1) + 1e-4).sqrt() for x in group) / len(group)
        lacks += [(1 - row).clamp(min=0) for row in std]  # every clip counts the same
    torch.testing.assert_close(out.regularization_loss, 2.0 * torch.stack(lacks).mean(), **CLOSE)
    torch.testing.assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    with pytest.raises(ValueError, match="predictions of 1 token have no variance"):
        model(clips[:1], contexts[0], [targets[0][0], targets[0][1][:, :1]])


@pytest.mark.parametrize("shape", [(4, 32, 48), (8, 24, 40), (2, 16, 56)])  # frames, height, width
def test_recomputed_positions_equal_a_model_of_that_size(shape):
    frames, height, width = shape
    small = pretraining_model(position_resize="recompute")
    large = pretraining_model(crop_size=[height, width], frames_per_clip=frames)
    tables = {k: v for k, v in large.state_dict().items() if "position" in k}
    large.load_state_dict(small.state_dict() | tables)
    tokens = frames * height * width // 128
    order = orders(1, tokens)
    batch = torch.randn(1, frames, 3, height, width), [order[:, :4]], [order[:, 4:9]]
    found, expected = small(*batch), large(*batch)
    torch.testing.assert_close(found.predictions, expected.predictions)
    torch.testing.assert_close(found.targets, expected.targets)


def test_interpolated_positions_follow_their_axes():
    """Rows stretch by 2, columns stay: where only the row differs, the table must be that of the columns."""
    model = pretraining_model().context_encoder
    (tokens,) = model.embeddings(clip := torch.randn(1, 4, 3, 64, 32), None)
    (patches,) = model.embeddings.patch_embeddings(clip)
    table = (tokens - patches).detach().view(2, 8, 4, 32)
    own = model.embeddings.position_embeddings.view(2, 4, 4, 32)
    # 12 channels each for frame and row, 8 are left of the column's
    torch.testing.assert_close(table[:, :, :, :12], own[:, :1, :, :12].expand(-1, 8, -1, -1), **CLOSE)
    torch.testing.assert_close(table[:, :, :, 24:], own[:, :1, :, 24:].expand(-1, 8, -1, -1), **CLOSE)
    between = 0.75 * own[:, 1, :, 12:24] + 0.25 * own[:, 2, :, 12:24]  # output row 3 lies at (3 + 0.5) / 2 - 0.5
    torch.testing.assert_close(table[:, 3, :, 12:24], between, **CLOSE)


def test_images_are_static_clips():
    model = pretraining_model().vjepa
    image = torch.randn(2, 3, 32, 48)
    expected = model(image.unsqueeze(1).repeat(1, 4, 1, 1, 1)).last_hidden_state
    for pixels in (image, image.unsqueeze(1)):
        torch.testing.assert_close(model(pixels).last_hidden_state, expected)
        assert model.token_grid(pixels) == (2, 4, 6)
    features = model.get_video_features(image, layers=[0, -1])
    torch.testing.assert_close(features.grid.flatten(1, 3), expected)
    torch.testing.assert_close(features.pooled, expected.mean(dim=1))
    torch.testing.assert_close(features.layers[1], features.grid)
    first = model(image, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(features.layers[0].flatten(1, 3), model.layernorm(first))
    swapped = model.get_video_features(image, layers=[-1, 0]).layers  # in the order asked for, not by depth
    assert all(torch.equal(a, b) for a, b in zip(swapped, features.layers[::-1], strict=True))


def test_a_model_of_images():
    model = pretraining_model(frames_per_clip=1, tubelet_size=1)
    assert model.config.grid_size == (1, 4, 4)
    columns, rows = sincos_2d(32, (4, 4)).chunk(2, dim=-1)
    torch.testing.assert_close(position_table(model.config, 32), torch.cat([rows, columns], dim=-1))
    assert model.vjepa(torch.randn(2, 3, 32, 32)).last_hidden_state.shape == (2, 16, 32)
    (tokens,) = model.vjepa.embeddings(image := torch.randn(2, 1, 3, 48, 24), None)
    (patches,) = model.vjepa.embeddings.patch_embeddings(image)
    plane = position_table(model.config, 32).transpose(1, 2).unflatten(2, (4, 4))
    stretched = torch.nn.functional.interpolate(plane, (6, 3), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens - patches, stretched.expand(2, -1, -1), **CLOSE)
    order = orders(2, 16)
    assert model(torch.randn(2, 3, 32, 32), [order[:, :4]], [order[:, 4:9]]).predictions[0].shape == (2, 5, 32)
    with pytest.raises(ValueError, match="clips of 4 frames, but with frames_per_clip=1"):
        model.vjepa(torch.randn(2, 4, 3, 32, 32))


def test_layers_follow_the_config():
    model = VJepaForPreTraining(
        VJepaConfig(**TINY, qkv_bias=False, hidden_act="relu", attention_probs_dropout_prob=0.25)
    )
    for layer in (*model.context_encoder.layer, *model.predictor.layer):
        assert layer.attention.query.bias is layer.attention.key.bias is layer.attention.value.bias is None
        assert isinstance(layer.mlp.activation_fn, torch.nn.ReLU) and layer.attention.dropout == 0.25


def test_unequal_shares_of_the_position_table():
    table = position_table(VJepaConfig(**TINY, uniform_power=False), 32).view(2, 4, 4, 32)
    assert (table[:, :1, :1, :16] == table[..., :16]).all()  # half of the channels know the frame only
    assert (table[:1, :, :1, 16:24] == table[..., 16:24]).all()
    assert (table[:1, :1, :, 24:] == table[..., 24:]).all()
    torch.testing.assert_close(table[1, 0, 0, 0], torch.tensor(1.0).sin())


def test_targets_stay_float32_beside_a_bfloat16_model(tmp_path):
    model = pretraining_model()
    model.save_pretrained(tmp_path)
    model = VJepaForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.target_encoder.parameters()} == {torch.float32}
    others = [*model.context_encoder.parameters(), *model.predictor.parameters()]
    assert {p.dtype for p in others} == {torch.bfloat16}
    clips, contexts, targets = two_groups()
    out = model(clips, contexts, targets)
    assert {x.dtype for x in out.targets} == {torch.float32} and {x.dtype for x in out.predictions} == {torch.bfloat16}
    out.loss.backward()
    model.update_target_encoder(0.99)


def test_recomputed_positions_have_the_type_of_the_weights():
    model = VJepaModel(VJepaConfig(**TINY, position_resize="recompute")).bfloat16().eval()
    assert model(torch.randn(1, 4, 3, 32, 48)).last_hidden_state.dtype == torch.bfloat16


def test_targets_have_no_gradient_even_if_the_pixels_want_one():
    model = pretraining_model()
    (clip, _), (contexts, _), (targets, _) = two_groups()
    out = model(clip.requires_grad_(), contexts, targets)
    assert not any(target.requires_grad for target in out.targets)
    assert all(prediction.requires_grad for prediction in out.predictions)


def test_auto_classes_load_a_pretraining_checkpoint(tmp_path):
    model = pretraining_model()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is VJepaConfig
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is VJepaModel
    clip = torch.randn(1, 4, 3, 32, 32)
    torch.testing.assert_close(encoder(clip).last_hidden_state, model.vjepa(clip).last_hidden_state)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("contexts", "targets", "message"),
    [
        ([torch.zeros(2, 3).long()], [], "target_mask is empty"),
        ([torch.zeros(2, 3).long()], [torch.ones(2, 2).long()] * 2, "every context goes with one target"),
        ([torch.zeros(1, 3).long()], [torch.ones(2, 2).long()], "1 rows"),
        ([torch.zeros(2, 32).bool()], [torch.ones(2, 2).long()], "boolean mask"),
        ([torch.zeros(2, 0).long()], [torch.ones(2, 2).long()], "keeps no token"),
    ],
)
def test_wrong_masks_are_refused(contexts, targets, message):
    with pytest.raises(ValueError, match=message):
        pretraining_model()(torch.randn(2, 4, 3, 32, 32), contexts, targets)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 3, 3, 32, 32), "3 frames of 32x32"), ((1, 4, 3, 30, 32), "30x32")]
)
def test_clips_that_do_not_divide_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        VJepaModel(VJepaConfig(**TINY))(torch.randn(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames_per_clip": 1}, "frames_per_clip 1 does not divide into tubelets of 2 frames"),
        ({"pred_num_attention_heads": 5}, "pred_hidden_size 384 must be a multiple of its 5 attention heads"),
        ({"position_resize": "bicubic"}, "position_resize='bicubic' is not one of trilinear, recompute"),
        (
            {"uniform_power": False, "pred_hidden_size": 36, "pred_num_attention_heads": 2},
            "pred_hidden_size 36 must be",
        ),
        ({"variance_weight": -1.0}, "variance_weight must be at least 0, got -1.0"),
        ({"crop_size": 200}, "crop_size 200 does not divide into patches of 16"),
    ],
)
def test_configs_that_no_model_can_have_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        VJepaConfig(**fields)


def test_heads_are_those_of_the_encoder_where_none_are_given():
    fields = {name: value for name, value in TINY.items() if name != "pred_num_attention_heads"}
    config = VJepaConfig(**fields)
    assert config.pred_num_attention_heads == config.pooler_num_attention_heads == 4
    own = VJepaConfig(**fields, pooler_num_attention_heads=8, pred_num_attention_heads=3)
    assert (own.pooler_num_attention_heads, own.pred_num_attention_heads) == (8, 3)


@pytest.mark.parametrize("zero", [True, False])
def test_start_of_the_mask_tokens(zero):
    model = VJepaForPreTraining(VJepaConfig(**TINY, pred_zero_init_mask_tokens=zero))
    assert bool((model.predictor.embeddings.mask_tokens == 0).all()) == zero
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert "predictor.embeddings.mask_tokens" in names and not any("position" in name for name in names)


@pytest.mark.parametrize(
    ("size", "encoder", "predictor"),  # the official counts, in millions, are known for the released sizes
    [
        ("vit_tiny", 5_633_856, 21_443_136),
        ("vit_small", 21_884_544, 21_590_784),
        ("vit_base", 86_236_416, 21_886_080),
        ("vit_large", 303_885_312, 22_082_944),
        ("vit_huge", 631_648_000, 22_279_808),
        ("vit_giant", 1_012_173_952, 22_378_240),
    ],
)
def test_parameter_counts_of_named_sizes(size, encoder, predictor):
    with torch.device("meta"):
        model = VJepaForPreTraining(VJepaConfig.from_size(size))
    assert model.context_encoder.num_parameters() == encoder
    assert sum(p.numel() for p in model.predictor.parameters()) == predictor
    assert model.vjepa.embeddings.position_embeddings.numel() == 1568 * model.config.hidden_size
