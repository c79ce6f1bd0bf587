"""V-JEPA 2.1 beside the recorded numbers of the official code, to the tolerances of the recordings."""

import pytest
import torch

from hf_jepa.layers.packing import Packing
from hf_jepa.layers.rotary import rotate
from hf_jepa.losses.context import context_distance
from hf_jepa.models.vjepa2.modeling_vjepa2 import rotary_for
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import SIZES, VJepa21Config
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21ForPreTraining
from hf_jepa.training.optimizer import build_optimizer


CLOSE = {"rtol": 0, "atol": 2e-5}


def side_by_side(encoder, clips, **kwargs) -> torch.Tensor:
    """All levels of an encoder, concatenated over the features."""
    return torch.cat(encoder(clips, levels=encoder.config.level_indices, **kwargs).levels, dim=-1)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_every_stage_of_the_encoder(golden, kind):
    case = golden("encoder")
    encoder, io = case.model.target_encoder, case.io
    embeddings, clips = encoder.embeddings, io[kind]
    torch.testing.assert_close(embeddings.tokenizer(clips)(clips)[0], io[f"{kind}_patch_embed"], **CLOSE)
    torch.testing.assert_close(embeddings(clips, None)[0], io[f"{kind}_tokens_in"], **CLOSE)
    torch.testing.assert_close(encoder(clips).last_hidden_state, io[f"{kind}_last_hidden_state"], **CLOSE)
    torch.testing.assert_close(side_by_side(encoder, clips), io[f"{kind}_hierarchical"], **CLOSE)
    assert list(encoder.config.level_indices) == case.settings["hierarchical_layers"]


def test_rotary_positions(golden):
    case = golden("encoder")
    encoder, io = case.model.target_encoder, case.io
    attention = encoder.layer[0].attention
    x = encoder.layer[0].norm1(io["video_tokens_in"])
    query = attention.query(x).unflatten(-1, (-1, attention.head_dim))
    torch.testing.assert_close(query.transpose(1, 2), io["block0_q"], **CLOSE)
    index, grid = torch.arange(x.shape[1]).unsqueeze(0), encoder.token_grid(io["video"])
    tables = rotary_for(encoder.config, attention.head_dim, [index], [grid], Packing([x.shape[:2]]))
    torch.testing.assert_close(rotate(query, *tables).transpose(1, 2), io["block0_q_rotated"], **CLOSE)


def test_masked_encoding(golden):
    case = golden("encoder")
    encoder, io = case.model.context_encoder, case.io
    found = encoder(io["video"], context_mask=io["mask"], levels=encoder.config.level_indices)
    torch.testing.assert_close(found.last_hidden_state, io["video_masked_last"], **CLOSE)
    torch.testing.assert_close(torch.cat(found.levels, -1), io["video_masked_hierarchical"], **CLOSE)


def test_single_levels(golden):
    case = golden("encoder")
    features = case.model.target_encoder.get_video_features(case.io["video"], layers=[5, -1])
    for level, name in zip(features.layers, ("out_layers_1", "out_layers_3"), strict=True):
        torch.testing.assert_close(level.flatten(1, 3), case.io[name], **CLOSE)


def test_another_size(golden):
    case = golden("encoder")
    found = case.model.target_encoder(case.io["video_other_size"]).last_hidden_state
    torch.testing.assert_close(found, case.io["video_other_size_last_hidden_state"], **CLOSE)


def test_distilled_predictor(golden):
    case = golden("predictor_distilled")
    model, io = case.model, case.io
    seen, grid = io["mask_enc"], model.config.grid_size
    encoded = model.target_encoder(io["video"], context_mask=seen, levels=model.config.pred_levels).levels
    assert len(encoded) == 1 and len(model.config.level_indices) == 4
    torch.testing.assert_close(encoded[0], io["encoder_masked"], **CLOSE)
    for name, index, is_image in (("video", 0, False), ("image_index2", 2, True)):
        masks = [io["encoder_masked"]], [seen], [io["mask_pred"]], [grid], [index], [is_image]
        (predicted,), (visible,) = model.predictor(*masks, predict_context=True)
        torch.testing.assert_close(predicted, io[f"pred_{name}"], **CLOSE)
        torch.testing.assert_close(visible, io[f"pred_context_{name}"], **CLOSE)
        (alone,), nothing = model.predictor(*masks)
        torch.testing.assert_close(alone, io[f"pred_{name}"], **CLOSE)
        assert nothing is None
    by_model = model.base_model(io["video"], seen, io["mask_pred"], mask_index=0).predictor_output.last_hidden_state
    torch.testing.assert_close(by_model, io["pred_video"], **CLOSE)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_training_step(golden, official_names, kind):
    case = golden(f"pretrain_step_{kind}")
    model, io = case.model.train(), case.io
    count = len(case.settings["masks"])
    seen, wanted = ([io[f"mask_{part}_{j}"] for j in range(count)] for part in ("enc", "pred"))
    every = torch.arange(io["target_normalised"].shape[1]).expand(len(io["clips"]), -1)
    torch.testing.assert_close(model.encode_targets(io["clips"], every)[0], io["target_normalised"], **CLOSE)

    optimizer = build_optimizer(model, io["lr"].item(), io["weight_decay"].item(), betas=(0.9, 0.999), eps=1e-8)
    out = model(io["clips"], context_mask=seen, target_mask=wanted)
    grid = model.context_encoder.token_grid(io["clips"])
    for j in range(count):
        torch.testing.assert_close(out.context[j], io[f"encoder_hierarchical_{j}"], **CLOSE)
        torch.testing.assert_close(out.predictions[j], io[f"pred_{j}"], **CLOSE)
        torch.testing.assert_close(out.context_predictions[j], io[f"pred_context_{j}"], **CLOSE)
        torch.testing.assert_close(context_distance(seen[j], wanted[j], grid), io[f"distance_{j}"], **CLOSE)
    weight = case.settings["lambda_value"]
    for found, expected in (
        (out.prediction_loss, io["loss_pred"]),
        (out.context_loss, io["loss_context"]),
        (out.regularization_loss, weight * io["loss_context"]),
        (out.loss, io["loss"]),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for j in range(count):  # the losses of single masks
        alone = model(io["clips"], context_mask=[seen[j]], target_mask=[wanted[j]])
        torch.testing.assert_close(alone.prediction_loss, io[f"loss_pred_{j}"], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.context_loss, io[f"loss_context_{j}"], rtol=0, atol=1e-5)

    out.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith("vjepa2_1.encoder.") for name in gradients)
    found = official_names(model, gradients)
    compared = [name for name in io if name.startswith("grad.")]
    assert len(compared) == 7
    for name in compared:
        torch.testing.assert_close(found[name.removeprefix("grad.")], io[name], rtol=1e-5, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    other = "image" if kind == "video" else "video"
    assert trained - {*gradients} == {
        "context_encoder.embeddings." + ("image_patch_embeddings" if other == "image" else "patch_embeddings") + end
        for end in (".proj.weight", ".proj.bias")
    } | {f"{part}.embeddings.modality.{other}" for part in ("context_encoder", "vjepa2_1.predictor")}

    optimizer.step()
    model.update_target_encoder(io["momentum"].item())
    after = official_names(model, dict(model.state_dict()))
    compared = [name for name in io if name.startswith("after.")]
    assert len(compared) == 4
    for name in compared:
        torch.testing.assert_close(after[name.removeprefix("after.")], io[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("size", "encoder", "predictor"),
    [
        ("vit_base", 86_833_152, 22_874_752),
        ("vit_large", 304_680_960, 22_973_056),
        ("vit_giant", 1_013_267_968, 55_400_704),
        ("vit_gigantic", 1_845_216_768, 59_433_472),
    ],
)
def test_parameter_counts_of_released_sizes(size, encoder, predictor):
    with torch.device("meta"):
        model = VJepa21ForPreTraining(VJepa21Config.from_size(size, crop_size=384))
    assert model.context_encoder.num_parameters() == encoder
    assert sum(p.numel() for p in model.predictor.parameters()) == predictor
    assert {*SIZES} == {"vit_base", "vit_large", "vit_giant", "vit_gigantic"}
