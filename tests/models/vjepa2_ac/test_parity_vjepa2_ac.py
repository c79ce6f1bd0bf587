"""V-JEPA 2-AC beside the recorded numbers of the official code."""

import pytest
import torch
from golden_vjepa2_ac import CLOSE, by_frame, read

from hf_jepa.core.world_model import WorldState
from hf_jepa.layers.poses import compose_poses, pose_differences
from hf_jepa.losses.prediction import normalize_targets


FORWARDS = ("predictor_forward", "predictor_forward_extrinsics")


def recorded(io: dict, model: torch.nn.Module, kind: str, of=lambda p: p):
    """(ours, recorded) for the parameters of the predictor that a case has recorded."""
    predictor = model.predictor
    attention = predictor.layer[0].attention
    qkv = torch.cat([of(each.weight) for each in (attention.query, attention.key, attention.value)])
    yield qkv, io[f"{kind}/predictor_blocks.0.attn.qkv.weight"]
    yield of(predictor.embeddings.action_encoder.weight), io[f"{kind}/action_encoder.weight"]
    yield of(predictor.embeddings.state_encoder.bias), io[f"{kind}/state_encoder.bias"]
    yield of(predictor.proj.weight), io[f"{kind}/predictor_proj.weight"]
    yield of(predictor.layer[1].norm2.weight), io[f"{kind}/predictor_blocks.1.norm2.weight"]


@pytest.mark.parametrize("case", FORWARDS)
def test_every_stage_of_the_predictor_and_its_gradients(case):
    model, io, facts = read(case)
    predictor, frames, found = model.predictor, facts["T"], {}
    predictor.embeddings.register_forward_hook(lambda _, __, out: found.update(tokens_in=out))
    predictor.layer[0].attention.register_forward_hook(lambda _, __, out: found.update(block0_attn_out=out[0]))
    for index, layer in enumerate(predictor.layer):
        layer.register_forward_hook(lambda _, __, out, i=index: found.update({f"block{i}_out": out[0]}))
    x = io["x"].requires_grad_()
    out = predictor(by_frame(x, frames), io["actions"], io["states"], io.get("extrinsics")).last_hidden_state
    found |= {"output": out.flatten(1, 2), "output_layernorm": normalize_targets(out, "layer_norm").flatten(1, 2)}
    for name, value in found.items():
        torch.testing.assert_close(value, io[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    loss = (out.flatten(1, 2) * io["cotangent"]).mean()
    torch.testing.assert_close(loss, io["loss"], **CLOSE)
    loss.backward()
    attention, embeddings = predictor.layer[0].attention, predictor.embeddings
    qkv = torch.cat([each.weight.grad for each in (attention.query, attention.key, attention.value)])
    for gradient, name in (
        (x.grad, "x"),
        (embeddings.action_encoder.weight.grad, "action_encoder_weight"),
        (embeddings.state_encoder.weight.grad, "state_encoder_weight"),
        (qkv, "block0_qkv_weight"),
    ):
        expected = io[f"grad_{name}"]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [None, True, False])
def test_rollout_states_and_pose_differences(use_cache):
    model, io, facts = read("rollout")
    state = WorldState(io["frame0"].unsqueeze(1), poses=io["state0"])
    found = model.base_model.unroll(state, io["actions"].unsqueeze(1), use_cache=use_cache).squeeze(1)
    torch.testing.assert_close(found, io["frames"][:, 1:], **CLOSE)
    energy = (found - io["goal"].unsqueeze(1)).abs().mean(dim=(2, 3))
    torch.testing.assert_close(energy, io["energy"], **CLOSE)
    pose = io["state0"][:, 0]
    for step in range(facts["horizon"]):
        pose = compose_poses(pose, io["actions"][:, step])
        torch.testing.assert_close(pose, io["states"][:, step + 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(pose_differences(io["states"]), io["pose_differences"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", ["train_step", "train_step_auto3"])
def test_training_step(case, checkpointing):
    model, io, facts = read(case)
    if checkpointing:
        model.gradient_checkpointing_enable()
    out = model.train()(io["clips"], actions=io["actions"], states=io["states"])
    torch.testing.assert_close(out.context.flatten(1, 2), io["target_normalised"], **CLOSE)
    torch.testing.assert_close(out.predictions.flatten(1, 2), io["z_tf"], **CLOSE)
    torch.testing.assert_close(out.rollout.flatten(1, 2), io["z_ar"], **CLOSE)
    for name, found in (("jloss", out.teacher_forcing_loss), ("sloss", out.rollout_loss), ("loss", out.loss)):
        torch.testing.assert_close(found, io[name], **CLOSE)
    before = {name: p.clone() for name, p in model.target_encoder.named_parameters()}
    out.loss.backward()
    for found, expected in recorded(io, model, "grad", of=lambda p: p.grad):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    trained = [p for p in model.parameters() if p.grad is not None]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": io["wd"].item()},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=io["lr"].item(), betas=(0.9, 0.999), eps=1e-8).step()
    for found, expected in recorded(io, model, "updated"):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    attention = model.target_encoder.layer[0].attention
    qkv = torch.cat([each.weight for each in (attention.query, attention.key, attention.value)])
    assert torch.equal(qkv, io["target_encoder_param_after/blocks.0.attn.qkv.weight"])
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.target_encoder.named_parameters())


@torch.no_grad()
def test_frames_are_encoded_one_by_one():
    model, io, _ = read("train_step")
    tokens = model.target_encoder(io["clips"].flatten(0, 1)).last_hidden_state
    torch.testing.assert_close(tokens.unflatten(0, (2, 4)).flatten(1, 2), io["target_raw"], **CLOSE)
