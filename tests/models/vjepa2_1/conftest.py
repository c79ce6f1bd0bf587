"""Golden cases of V-JEPA 2.1, loaded into our models."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa2_1.convert_vjepa2_1 import LAYOUT
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21ForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/vjepa2_1"
# What the tensors do not tell.
FIELDS = {
    "num_heads": "num_attention_heads",
    "img_size": "crop_size",
    "num_frames": "frames_per_clip",
    "pred_num_heads": "pred_num_attention_heads",
    "lambda_value": "context_loss_weight",
    "weight_distance_loss": "context_loss_distance",
}


def load(case: str) -> SimpleNamespace:
    """A golden case: its model, its numbers, its settings."""
    settings = json.loads((GOLDEN / case / "config.json").read_text(encoding="utf-8"))
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    config = LAYOUT.infer_config(
        official, **{ours: settings[name] for name, ours in FIELDS.items() if name in settings}
    )
    model = VJepa21ForPreTraining(config)
    model.load_state_dict(model.state_dict() | LAYOUT.convert(official, config))  # one case has no predictor
    io = load_file(GOLDEN / case / "io.safetensors")
    for name in ("video", "image", "clips", "video_other_size"):
        if name in io:
            io[name] = io[name].transpose(1, 2)  # (B, C, T, H, W), ours is (B, T, C, H, W)
    return SimpleNamespace(model=model.eval(), io=io, settings=settings)


def named(model: VJepa21ForPreTraining, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by our parameter names (gradients, weights) by official names."""
    state = {name: torch.zeros_like(parameter) for name, parameter in model.state_dict().items()} | values
    return {
        f"{entry}.{key.removeprefix('module.backbone.')}": value
        for entry, part in LAYOUT.revert(state, model.config).items()
        for key, value in part.items()
    }


@pytest.fixture(scope="session")
def golden():
    """Gives a golden case by its name."""
    return load


@pytest.fixture(scope="session")
def official_names():
    return named
