"""V-JEPA 2 beside the recorded numbers of the official code."""

import pytest
import torch
from golden_vjepa2 import CLOSE, read

from hf_jepa.layers.rotary import grid_positions, rotary_tables, rotate
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2Model


@pytest.fixture(scope="module")
def whole():
    return read("encoder")


@pytest.fixture(scope="module")
def masked():
    return read("encoder_masked")


@torch.no_grad()
def test_every_stage_of_the_encoder(whole):
    model, io, _ = whole
    encoder = model.context_encoder
    out = encoder(io["video"], output_hidden_states=True)
    for found, name in zip(out.hidden_states, ("patch_embed", "block0_out", "block1_out"), strict=True):
        torch.testing.assert_close(found, io[name], **CLOSE)
    torch.testing.assert_close(out.last_hidden_state, io["last_hidden_state"], **CLOSE)
    features = encoder.get_video_features(io["video"], layers=[0, -1])
    assert features.grid.shape == (2, *model.config.grid_size, 40)
    torch.testing.assert_close(features.grid.flatten(1, 3), io["last_hidden_state"], **CLOSE)
    torch.testing.assert_close(features.pooled, io["last_hidden_state"].mean(1), **CLOSE)
    for found, name in zip(features.layers, ("out_layer_first", "out_layer_last"), strict=True):
        torch.testing.assert_close(found.flatten(1, 3), io[name], **CLOSE)


def test_positions_and_rotation(whole):
    model, io, _ = whole
    positions = grid_positions(torch.arange(64), model.config.grid_size)
    for found, axis in zip(positions, "dhw", strict=True):
        assert torch.equal(found, io[f"pos_{axis}"].long())
    tables = [table[None, :, None] for table in rotary_tables(positions, 20, "tiled")]
    rotated = rotate(io["block0_q"].transpose(1, 2), *tables).transpose(1, 2)
    torch.testing.assert_close(rotated, io["block0_q_rotated"], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["other_size", "nonsquare"])
def test_positions_are_those_of_the_clip_at_hand(whole, name):
    model, io, _ = whole
    found = model.context_encoder(io[f"video_{name}"]).last_hidden_state
    torch.testing.assert_close(found, io[f"last_hidden_state_{name}"], **CLOSE)
    assert (found - io[f"native.last_hidden_state_{name}"]).abs().max() > 0.1  # where the native class is wrong


@torch.no_grad()
def test_swiglu():
    model, io, facts = read("encoder_swiglu", use_silu=True, wide_silu=True)
    assert model.config.intermediate_size == facts["swiglu_hidden"]
    torch.testing.assert_close(model.context_encoder(io["video"]).last_hidden_state, io["last_hidden_state"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", "_unsorted"])
def test_masked_encoding_and_prediction(masked, suffix):
    model, io, _ = masked
    context_mask, target_mask = io[f"mask_enc{suffix}"], io[f"mask_pred{suffix}"]
    base = VJepa2Model(model.config)
    base.load_state_dict({k.removeprefix("vjepa2."): v for k, v in model.state_dict().items() if "vjepa2." in k})
    base.encoder.load_state_dict(model.context_encoder.state_dict())
    found = base.eval()(io["video"], context_mask, target_mask)
    torch.testing.assert_close(found.last_hidden_state, io[f"encoder_masked{suffix}"], **CLOSE)
    expected = io["predictor_out_unsorted" if suffix else "predictor_out_default"]
    torch.testing.assert_close(found.predictor_output.last_hidden_state, expected, **CLOSE)
    if not suffix:
        for index in range(4):
            found = base(io["video"], context_mask, target_mask, mask_index=index).predictor_output.last_hidden_state
            torch.testing.assert_close(found, io[f"predictor_out_mask_index_{index}"], **CLOSE)


@torch.no_grad()
def test_prediction_from_the_full_encoding_is_that_of_the_native_class(masked):
    model, io, _ = masked
    full = model.context_encoder(io["video"]).last_hidden_state
    torch.testing.assert_close(full, io["encoder_full"], **CLOSE)
    context = full.gather(1, io["mask_enc"].unsqueeze(-1).expand(-1, -1, full.shape[-1]))
    (found,) = model.predictor([context], [io["mask_enc"]], [io["mask_pred"]], [model.config.grid_size], [1])
    torch.testing.assert_close(found, io["predictor_out_from_full"], **CLOSE)
    torch.testing.assert_close(found, io["native.predictor_last_hidden_state"], **CLOSE)


def step_inputs(io) -> tuple[list, list, list]:
    clips = [io[f"group{g}.clips"] for g in range(2)]
    masks = [[[io[f"group{g}.mask_{kind}_{i}"] for i in range(2)] for g in range(2)] for kind in ("enc", "pred")]
    return clips, *masks


GRADIENTS = {
    "encoder.patch_embed.proj.bias": "context_encoder.embeddings.patch_embeddings.proj.bias",
    "predictor.predictor_embed.weight": "vjepa2.predictor.embeddings.predictor_embeddings.weight",
}


def test_pretraining_step():
    model, io, facts = read("pretrain_step")
    out = model.train()(*step_inputs(io))
    names = [f"group{g}.{{}}_{i}" for g in range(2) for i in range(2)]
    for i, name in enumerate(names):
        torch.testing.assert_close(out.context[i], io[name.format("context")], **CLOSE)
        torch.testing.assert_close(out.predictions[i], io[name.format("pred")], **CLOSE)
        loss = (out.predictions[i] - out.targets[i]).abs().mean()
        torch.testing.assert_close(loss, io[name.format("loss")], **CLOSE)
    torch.testing.assert_close(out.loss, io["loss"], **CLOSE)
    out.loss.backward()
    parameters = dict(model.named_parameters())
    for name, ours in GRADIENTS.items():
        torch.testing.assert_close(parameters[ours].grad, io[f"grad.{name}"], rtol=1e-5, atol=1e-6)
    layer = model.context_encoder.layer[0].attention
    qkv = torch.cat([layer.query.weight.grad, layer.key.weight.grad, layer.value.weight.grad])
    torch.testing.assert_close(qkv, io["grad.encoder.blocks.0.attn.qkv.weight"], rtol=1e-5, atol=1e-6)
    tokens = model.predictor.embeddings.mask_tokens.grad
    for group in range(2):  # the mask token is that of the clip length
        expected = io[f"grad.predictor.mask_tokens.{group}"]
        torch.testing.assert_close(tokens[group], expected, rtol=1e-5, atol=1e-6)
    assert not tokens[facts["mask_tokens_without_gradient"]].any()

    decayed = [p for n, p in parameters.items() if p.grad is not None and p.ndim > 1 and "bias" not in n]
    others = [p for n, p in parameters.items() if p.grad is not None and not (p.ndim > 1 and "bias" not in n)]
    groups = [{"params": decayed, "weight_decay": io["weight_decay"].item()}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=io["lr"].item()).step()
    model.update_target_encoder(io["momentum"].item())
    for name, encoder in (("encoder", model.context_encoder), ("target_encoder", model.target_encoder)):
        attention = encoder.layer[0].attention
        qkv = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        torch.testing.assert_close(qkv, io[f"after.{name}.blocks.0.attn.qkv.weight"], rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder.layernorm.weight, io[f"after.{name}.norm.weight"], rtol=0, atol=1e-6)
    decay = 1 - io["lr"].item() * io["weight_decay"].item()
    for index, found in enumerate(model.predictor.embeddings.mask_tokens):
        # Official mask tokens are tensors of their own; without gradient they are not even decayed. Ours are rows of
        # one tensor, as in the native class, which is decayed as a whole (they start at zero and stay there).
        unused = index in facts["mask_tokens_without_gradient"]
        expected = io[f"after.predictor.mask_tokens.{index}"] * (decay if unused else 1.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_one_packed_pass_equals_one_pass_per_mask():
    model, io, _ = read("pretrain_step")
    clips, contexts, targets = step_inputs(io)
    packed = model(clips, contexts, targets)
    index = 0
    for group in range(2):
        for context, target in zip(contexts[group], targets[group], strict=True):
            alone = model.context_encoder(clips[group], context_mask=context).last_hidden_state
            torch.testing.assert_close(packed.context[index], alone, **CLOSE)
            grid = model.context_encoder.token_grid(clips[group])
            (prediction,) = model.predictor([alone], [context], [target], [grid], [group])
            torch.testing.assert_close(packed.predictions[index], prediction, **CLOSE)
            index += 1


@torch.no_grad()
def test_the_rotary_tables_are_made_once_per_forward(whole, monkeypatch):
    model, io, _ = whole
    calls = []
    module = "hf_jepa.models.vjepa2.modeling_vjepa2.rotary_tables"
    monkeypatch.setattr(module, lambda *args: calls.append(1) or rotary_tables(*args))
    model.context_encoder(io["video"])
    assert len(calls) == 1


@torch.no_grad()
def test_features_never_run_the_predictor(whole, monkeypatch):
    model, io, _ = whole
    monkeypatch.setattr(type(model.predictor), "forward", lambda *args: pytest.fail("the predictor ran"))
    model.vjepa2(io["video"])
    model.vjepa2(io["video"], context_mask=torch.tensor([[0, 1], [2, 3]]))
    model.vjepa2.get_video_features(io["video"])


@torch.no_grad()
def test_an_image_is_a_static_clip_of_one_tubelet(whole):
    model, io, _ = whole
    image = io["video"][:, 0]
    expected = model.context_encoder(image.unsqueeze(1).repeat(1, 2, 1, 1, 1)).last_hidden_state
    for found in (model.context_encoder(image), model.context_encoder(image.unsqueeze(1))):
        assert torch.equal(found.last_hidden_state, expected)
    assert model.context_encoder.get_video_features(image).grid.shape == (2, 1, 4, 4, 40)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 3, 32, 32), "a clip of 3 frames of 32x32"),
        ((2, 4, 3, 30, 32), "30x32 pixels does not divide"),
        ((2, 4, 1, 32, 32), "expected clips"),
        ((4, 32, 32), "expected clips"),
    ],
)
def test_clips_that_do_not_fit_are_refused(whole, shape, message):
    with pytest.raises(ValueError, match=message):
        whole[0].context_encoder(torch.zeros(shape))


def test_groups_and_masks_that_do_not_fit_are_refused(whole):
    model, io, _ = whole
    clip, mask = io["video"], torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="empty list"):
        model.context_encoder([])
    with pytest.raises(ValueError, match="2 groups of clips"):
        model.context_encoder([clip, clip], context_mask=[[mask]])
    with pytest.raises(ValueError, match=r"context_mask\[1\]\[0\] has 1 rows"):
        model.context_encoder([clip, clip], context_mask=[[mask], [mask[:1]]])
    with pytest.raises(ValueError, match=r"\[1\] and target_mask \[2\] masks"):
        model(clip, context_mask=[mask], target_mask=[mask, mask])
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist: the encoder has layers 0 to 1"):
        model.vjepa2.get_video_features(clip, layers=[7])


def test_interpolated_positions_span_the_range_that_was_trained():
    """At the reference grid nothing changes; a finer grid has its corners at the same places."""
    fields = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 4, "crop_size": 16}
    torch.manual_seed(0)
    plain = VJepa2Model(VJepa2Config(**fields, frames_per_clip=4, pred_num_hidden_layers=1)).eval()
    config = VJepa2Config(
        **fields, frames_per_clip=4, pred_num_hidden_layers=1, rope_interpolation=True, rope_grid_size=4
    )
    stretched = VJepa2Model(config).eval()
    stretched.load_state_dict(plain.state_dict())
    same, finer = torch.randn(1, 4, 3, 16, 16), torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(stretched(same).last_hidden_state, plain(same).last_hidden_state)
    corners = torch.tensor([[0, 7, 56, 63]])  # of the 8 x 8 grid of the first frame pair
    found = stretched(finer, context_mask=corners).last_hidden_state
    pixels = finer[:, :, :, [*range(4), *range(28, 32)]][..., [*range(4), *range(28, 32)]]
    coarse = torch.zeros(1, 4, 3, 16, 16)
    coarse[:, :, :, :4, :4], coarse[:, :, :, :4, -4:] = pixels[..., :4, :4], pixels[..., :4, 4:]
    coarse[:, :, :, -4:, :4], coarse[:, :, :, -4:, -4:] = pixels[..., 4:, :4], pixels[..., 4:, 4:]
    expected = plain(coarse, context_mask=torch.tensor([[0, 3, 12, 15]])).last_hidden_state
    torch.testing.assert_close(found, expected, **CLOSE)
    one_row = stretched(torch.randn(1, 4, 3, 4, 16)).last_hidden_state  # a single row divides by no zero
    assert one_row.isfinite().all()


def test_stochastic_depth_leaves_out_whole_samples():
    torch.manual_seed(0)
    config = VJepa2Config(
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        crop_size=16,
        patch_size=8,
        frames_per_clip=2,
        drop_path_rate=0.9,
        pred_num_hidden_layers=1,
    )
    encoder = VJepa2ForPreTraining(config).context_encoder.train()
    clips = torch.randn(64, 2, 3, 16, 16)
    masks = [torch.tensor([[0, 1]]).repeat(64, 1), torch.tensor([[0, 1, 2]]).repeat(64, 1)]
    hidden = encoder(clips, context_mask=masks, output_hidden_states=True).hidden_states
    change = (hidden[2] - hidden[1])[0].abs().amax(-1)  # the second layer drops with 0.9, the first with 0
    assert (hidden[1] - hidden[0]).abs().amax(-1).min() > 0
    for rows in (change[:128].view(64, 2), change[128:].view(64, 3)):
        assert ((rows == 0).all(1) | (rows > 0).all(1)).all()
        assert 0.5 < (rows == 0).all(1).float().mean() < 0.97  # both branches of a layer drop: 0.81
    encoder.eval()
    assert torch.equal(encoder(clips).last_hidden_state, encoder(clips).last_hidden_state)


SIZES = {
    "vit_large": ({}, 303_885_312, 22_086_016),
    "vit_huge": ({}, 631_648_000, 22_282_880),
    "vit_giant": ({}, 1_012_173_952, 22_381_312),
}


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_of_the_released_models(size):
    fields, encoder, predictor = SIZES[size]
    with torch.device("meta"):
        model = VJepa2Model(VJepa2Config.from_size(size, **fields))
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.predictor)]
    assert counts == [encoder, predictor]


def test_all_tokens_of_the_predictor_in_the_official_order(masked):
    """The official option returns all tokens sorted by position: ours are the same, context first."""
    model, io, _ = masked
    context = model.context_encoder(io["video"], io["mask_enc"]).last_hidden_state
    everything = torch.cat([io["mask_enc"], io["mask_pred"]], dim=1)
    predictor, masks = model.predictor, ([io["mask_enc"]], [io["mask_pred"]])
    parts = [predictor.embeddings(context, io["mask_pred"].shape[1], 1)]
    x, _, _ = predictor.transform(parts, *masks, [model.config.grid_size], keep_context=True)
    found = predictor.proj(x)
    order = everything.argsort(1).unsqueeze(-1).expand(-1, -1, found.shape[-1])
    torch.testing.assert_close(found.gather(1, order), io["predictor_out_all_tokens_sorted"], **CLOSE)
