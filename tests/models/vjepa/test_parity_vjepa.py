"""V-JEPA beside the recorded numbers of the official code."""

import golden_vjepa
import pytest
import torch

from hf_jepa.losses.variance import prediction_std, variance_loss
from hf_jepa.models.vjepa.modeling_vjepa import position_table
from hf_jepa.training.optimizer import build_optimizer
from hf_jepa.training.schedules import learning_rate_at, momentum_at, weight_decay_at


CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def encoder():
    model, io, _ = golden_vjepa.load("encoder")
    return model.eval().context_encoder, io


def clips(video: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W), the official order, to ours."""
    return video.transpose(1, 2)


def test_every_stage_of_the_encoder(encoder):
    model, io = encoder
    out = model(clips(io["video"]), output_hidden_states=True)
    (tokens,) = model.embeddings.patch_embeddings(clips(io["video"]))
    torch.testing.assert_close(tokens, io["patch_embed"], **CLOSE)
    expected = (io["patch_embed"] + io["pos_embed"], io["block0_out"], io["block1_out"])
    for found, wanted in zip(out.hidden_states, expected, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(out.last_hidden_state, io["last_hidden_state"], **CLOSE)


def test_masks_keep_their_order_in_one_pass(encoder):
    model, io = encoder
    masks = [io["mask_a"], io["mask_b"]]
    found = model(clips(io["video"]), context_mask=masks).last_hidden_state
    torch.testing.assert_close(torch.cat(found), io["masked_list_ab"], **CLOSE)
    for mask, name in zip(masks, ("masked_a", "masked_b"), strict=True):
        alone = model(clips(io["video"]), context_mask=mask).last_hidden_state
        torch.testing.assert_close(alone, io[name], **CLOSE)


def test_position_tables(encoder):
    model, io = encoder
    table = position_table(model.config, 32)
    torch.testing.assert_close(table, io["pos_embed"], rtol=0, atol=1e-6)
    predictor = golden_vjepa.to_ours(
        "predictor",
        golden_vjepa.read_torch_checkpoint(golden_vjepa.GOLDEN / "pretrain_step/checkpoint.pt")["predictor"],
    )
    expected = predictor["predictor.embeddings.position_embeddings"]  # 28 channels: cut from 30
    torch.testing.assert_close(position_table(model.config, 28), expected, rtol=0, atol=1e-6)


def test_clips_of_another_size(encoder):
    model, io = encoder
    video = clips(io["video_other_size"])
    (tokens,) = model.embeddings(video, None)
    (patches,) = model.embeddings.patch_embeddings(video)
    torch.testing.assert_close(tokens - patches, io["pos_embed_other_size"], rtol=0, atol=1e-6)
    torch.testing.assert_close(model(video).last_hidden_state, io["last_hidden_state_other_size"], **CLOSE)


def step_inputs(io):
    masks = [[io[f"mask_{kind}_{i}"] for i in range(2)] for kind in ("enc", "pred")]
    return clips(io["clips"]), *masks


def test_loss_and_gradients_of_a_step():
    model, io, _ = golden_vjepa.load("pretrain_step")
    out = model.train()(*step_inputs(io))
    for i in range(2):
        torch.testing.assert_close(out.context[i], io[f"context_{i}"], **CLOSE)
        torch.testing.assert_close(out.predictions[i], io[f"pred_{i}"], **CLOSE)
        torch.testing.assert_close(out.targets[i], io[f"target_{i}"], **CLOSE)
    torch.testing.assert_close(out.prediction_loss, io["loss_jepa"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.loss, io["loss"], rtol=0, atol=1e-5)
    assert out.regularization_loss is None
    out.loss.backward()
    parameters = dict(model.named_parameters())
    gradients = golden_vjepa.recorded("pretrain_step", "grad")
    assert len(gradients) == 8  # of them three of one fused projection, and one of two mask tokens
    for name, gradient in gradients.items():
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=1e-5, atol=1e-6)


def test_weights_after_a_step():
    model, io, settings = golden_vjepa.load("pretrain_step")
    c = settings["optimization"]
    horizon = c["ipe_scale"] * c["epochs"] * c["ipe"]
    warmup = int(c["warmup"] * c["ipe"])
    rate = learning_rate_at(0, int(horizon), warmup, c["start_lr"], c["lr"], c["final_lr"])
    decay = weight_decay_at(0, int(horizon), c["weight_decay"], c["final_weight_decay"])
    momentum = momentum_at(0, horizon, *c["ema"])
    for value, name in ((rate, "lr"), (decay, "weight_decay"), (momentum, "momentum")):
        assert value == pytest.approx(io[name].item(), rel=1e-12)
    # In float64, because one gradient is 9e-9, less than the eps of AdamW: how far that weight moves is otherwise a
    # matter of rounding (2.3e-6 apart in float32, where all the others agree to 4e-8).
    model = model.double().train()
    optimizer = build_optimizer(model, rate, decay, betas=(0.9, 0.999), eps=1e-8)
    pixels, *masks = step_inputs(io)
    model(pixels.double(), *masks).loss.backward()
    optimizer.step()
    model.update_target_encoder(momentum)
    parameters = dict(model.named_parameters())
    after = golden_vjepa.recorded("pretrain_step", "after")
    token = after.pop("predictor.embeddings.mask_tokens")  # the first of two
    found = parameters["predictor.embeddings.mask_tokens"].data[:1]
    torch.testing.assert_close(found.float(), token, rtol=0, atol=1e-6)
    assert len(after) == 8
    for name, value in after.items():
        torch.testing.assert_close(parameters[name].data.float(), value, rtol=0, atol=1e-6)


def test_variance_term():
    model, io, _ = golden_vjepa.load("pretrain_step", variance_weight=0.5)
    out = model(*step_inputs(io))
    std = prediction_std(out.predictions)
    torch.testing.assert_close(std, io["pred_std"], **CLOSE)
    torch.testing.assert_close(variance_loss(std), io["loss_reg"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.regularization_loss, 0.5 * io["loss_reg"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.loss, io["loss_jepa"] + 0.5 * io["loss_reg"], rtol=0, atol=1e-5)
