"""One training step after a resume equals the recorded step of the official code, to the last weight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.optimizer import build_optimizer, parameter_groups
from hf_jepa.training.schedules import learning_rate_at, momentum_at, weight_decay_at


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/ijepa"


def load(case: str):
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    config = LAYOUT.infer_config(official, num_attention_heads=4)
    model = IJepaForPreTraining(config)
    model.load_state_dict(LAYOUT.convert(official, config))
    io = load_file(GOLDEN / case / "io.safetensors")
    return official, model.train(), io, json.loads((GOLDEN / case / "config.json").read_text())


def official_optimizer_state(official: dict, model: IJepaForPreTraining) -> dict[str, dict]:
    """AdamW's state per official parameter: indices count encoder and predictor, decayed ones first."""
    names = []
    for decayed in (True, False):
        for entry in ("encoder", "predictor"):
            for key, value in official[entry].items():
                if ("bias" not in key and value.ndim != 1) == decayed:
                    names.append(f"{entry}.{key.removeprefix('module.')}")
    return {names[index]: state for index, state in official["opt"]["state"].items()}


def as_official(model: IJepaForPreTraining, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values per parameter (gradients, moments) under official names."""
    holder = {name: torch.zeros_like(p) for name, p in model.state_dict().items()} | values
    copy = IJepaForPreTraining(model.config)
    copy.load_state_dict(holder)
    return {
        f"{entry}.{key.removeprefix('module.')}": value
        for entry, state in LAYOUT.revert(copy.state_dict(), copy.config).items()
        for key, value in state.items()
    }


def load_moments(optimizer, model, official) -> None:
    """Put the official moments of AdamW where our parameters are."""
    state = official_optimizer_state(official, model)
    moments = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        parts = {
            entry: {key: torch.zeros_like(value) for key, value in official[entry].items()}
            for entry in ("encoder", "target_encoder", "predictor")
        }
        for name, values in state.items():
            entry, key = name.split(".", 1)
            parts[entry][f"module.{key}"] = values[moment]
        moments[moment] = LAYOUT.convert(parts, model.config)
    step = next(iter(state.values()))["step"]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            optimizer.state[parameter] = {"step": torch.tensor(float(step))} | {
                moment: moments[moment][name].clone() for moment in moments
            }


@pytest.mark.parametrize("case", ["pretrain_step", "pretrain_step_1enc_4pred"])
def test_step_equals_the_official_one(case):
    official, model, io, settings = load(case)
    c, step = settings["optimization"], settings["steps_before_checkpoint"]
    horizon = c["ipe_scale"] * c["num_epochs"] * c["iterations_per_epoch"]
    warmup = int(c["warmup"] * c["iterations_per_epoch"])
    rate = learning_rate_at(step, int(horizon), warmup, c["start_lr"], c["lr"], c["final_lr"])
    decay = weight_decay_at(step, int(horizon), c["wd"], c["final_wd"])
    momentum = momentum_at(step, horizon, *c["ema"])
    for value, name in ((rate, "lr"), (decay, "weight_decay"), (momentum, "ema_momentum")):
        assert value == pytest.approx(io[name].item(), rel=1e-12)

    optimizer = build_optimizer(model, rate, decay, betas=(0.9, 0.999), eps=1e-8)
    load_moments(optimizer, model, official)
    masks = {kind: [io[key] for key in sorted(io) if key.startswith(f"mask_{kind}_")] for kind in ("enc", "pred")}
    out = model(io["images"], context_mask=masks["enc"], target_mask=masks["pred"])
    torch.testing.assert_close(out.predictions, io["predictions"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.targets, io["targets"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.loss, io["loss"][0], rtol=0, atol=1e-5)

    out.loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith("ijepa.") for name in gradients)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    torch.testing.assert_close(norm, io["grad_norm_total"][0], rtol=1e-4, atol=1e-5)
    found = as_official(model, gradients)
    compared = [key for key in io if key.startswith("grad.")]
    assert len(compared) >= 10
    for key in compared:
        torch.testing.assert_close(found[key.removeprefix("grad.")], io[key], rtol=1e-4, atol=1e-5)

    optimizer.step()
    model.update_target_encoder(momentum)
    after = {
        f"{entry}.{key.removeprefix('module.')}": value
        for entry, state in LAYOUT.revert(model.state_dict(), model.config).items()
        for key, value in state.items()
    }
    compared = [key for key in io if key.startswith("after.")]
    assert len(compared) >= 8
    for key in compared:
        torch.testing.assert_close(after[key.removeprefix("after.")], io[key], rtol=0, atol=2e-6)


def test_parameter_groups_are_the_official_ones():
    official, model, _, _ = load("pretrain_step")
    groups = parameter_groups(model, 0.04)
    assert [group["decays"] for group in groups] == [True, True, False, False]
    assert [group["weight_decay"] for group in groups] == [0.04, 0.04, 0.0, 0.0]
    # Same numbers of values as in the official groups, without the two position tables, which are no parameters here.
    for group, entry, decayed in zip(groups, ("encoder", "predictor") * 2, (True, True, False, False), strict=True):
        expected = sum(
            value.numel()
            for key, value in official[entry].items()
            if ("bias" not in key and value.ndim != 1) == decayed and "pos_embed" not in key
        )
        assert sum(p.numel() for p in group["params"]) == expected
    assert any(p is model.predictor.mask_token for p in groups[1]["params"])
