"""Golden cases of V-JEPA 2 as our models."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/vjepa2"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RENAMED = (
    (r"^(predictor_)?blocks\.", "layer."),
    (r"attn\.proj", "attention.proj"),
    (r"^(predictor_)?norm\.", "layernorm."),
    (r"^predictor_proj", "proj"),
    (r"^patch_embed", "embeddings.patch_embeddings"),
    (r"^predictor_embed", "embeddings.predictor_embeddings"),
)


def our_state(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an official encoder or predictor under our names."""
    state = {}
    for key, value in official.items():
        name = key.removeprefix("module.backbone.")
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if "attn.qkv" in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            state |= {name.replace("attn.qkv", f"attention.{part}"): rows for part, rows in parts}
        else:
            state[name] = value
    tokens = [state.pop(name) for name in sorted(state) if name.startswith("mask_tokens.")]
    return state | ({"embeddings.mask_tokens": torch.stack(tokens)} if tokens else {})


def read(case: str, **fields) -> tuple[VJepa2ForPreTraining, dict[str, torch.Tensor], dict]:
    """The model of a golden case, its recorded tensors (clips in our order of axes) and its facts."""
    folder = GOLDEN / case
    facts, official = json.loads((folder / "config.json").read_text()), read_torch_checkpoint(folder / "checkpoint.pt")
    model = VJepa2ForPreTraining(
        VJepa2Config(
            hidden_size=facts["embed_dim"],
            num_hidden_layers=facts["depth"],
            num_attention_heads=facts["num_heads"],
            crop_size=facts["img_size"],
            patch_size=facts["patch_size"],
            frames_per_clip=facts["num_frames"],
            mlp_ratio=facts["mlp_ratio"],
            pred_hidden_size=facts["pred_embed_dim"],
            pred_num_hidden_layers=facts["pred_depth"],
            pred_num_attention_heads=facts["pred_num_heads"],
            pred_num_mask_tokens=facts["num_mask_tokens"],
            **fields,
        )
    )
    model.target_encoder.load_state_dict(our_state(official["target_encoder"]))
    model.context_encoder.load_state_dict(our_state(official.get("encoder", official["target_encoder"])))
    if "predictor" in official:
        model.predictor.load_state_dict(our_state(official["predictor"]))
    io = load_file(folder / "io.safetensors")
    clips = {name: value.transpose(1, 2) for name, value in io.items() if value.ndim == 5}
    return model.eval(), io | clips, facts
