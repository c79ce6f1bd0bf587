"""Golden cases of V-JEPA 2-AC as our models."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.convert_vjepa2_ac import LAYOUT, PREDICTOR
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/vjepa2_ac"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def config_of(facts: dict, **fields) -> VJepa2ACConfig:
    """The config of a case; without an encoder in it, one of no size that matters."""
    predictor, encoder = facts["predictor"], facts.get("encoder", {})
    side = predictor["img_size"]
    return VJepa2ACConfig(
        hidden_size=predictor["embed_dim"],
        num_hidden_layers=encoder.get("depth", 1),
        num_attention_heads=encoder.get("num_heads", 2),
        crop_size=side if isinstance(side, int) else list(side),
        patch_size=predictor["patch_size"],
        pred_hidden_size=predictor["predictor_embed_dim"],
        pred_num_hidden_layers=predictor["depth"],
        pred_num_attention_heads=predictor["num_heads"],
        use_extrinsics=predictor.get("use_extrinsics", False),
        auto_steps=facts.get("loss", {}).get("auto_steps", 2),
        **{"frames_per_clip": facts.get("T", 8)} | fields,
    )


def read(case: str, **fields) -> tuple[VJepa2ACForPreTraining, dict[str, torch.Tensor], dict]:
    """The model of a golden case, in eval mode, its recorded tensors (clips in our order of axes) and its facts."""
    folder = GOLDEN / case
    facts, official = json.loads((folder / "config.json").read_text()), read_torch_checkpoint(folder / "checkpoint.pt")
    config = config_of(facts, **fields)
    torch.manual_seed(0)  # of encoders that the case does not have
    model = VJepa2ACForPreTraining(config)
    if "encoder" in official:
        model.load_state_dict(LAYOUT.convert(official, config))
    else:
        bare = {key.replace("module.", ""): value for key, value in official["predictor"].items()}
        model.predictor.load_state_dict(PREDICTOR.to_ours(bare))
    io = load_file(folder / "io.safetensors")
    clips = {"clips": io["clips"].transpose(1, 2)} if "clips" in io else {}
    return model.eval(), io | clips, facts


def by_frame(tokens: torch.Tensor, frames: int) -> torch.Tensor:
    """(B, T * N, D) -> (B, T, N, D)"""
    return tokens.unflatten(1, (frames, -1))
