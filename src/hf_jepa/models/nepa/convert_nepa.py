"""NEPA checkpoints of the Hub <-> ours: the key tables, and an architecture read off the tensors.

The official class is one of transformers, so its files are flat state dicts: `model.safetensors` beside a
`config.json`, which says what tensors do not, and `pytorch_model_ema.bin`, the average over training. `hub_entries`
and `hub_state` go between such a state dict and the entries of a layout.
"""

from collections.abc import Mapping
from typing import Any

import torch

from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, count, side, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, some
from hf_jepa.models.nepa.configuration_nepa import SIZES, NepaConfig
from hf_jepa.models.nepa.modeling_nepa import LAYER_NAMES, NepaForImageClassification, NepaForPreTraining


BLOCK, LAYER = "vit_nepa.encoder.layer.{i}", "layers.{i}"
ENCODER = KeyMap(
    (
        Rename("vit_nepa.embeddings.*", "embeddings.*"),
        *(Rename(f"{BLOCK}.{official}.*", f"{LAYER}.{ours}.*") for official, ours in LAYER_NAMES.items()),
        *(Rename(f"{BLOCK}.{norm}.*", f"{LAYER}.{norm}.*") for norm in ("layernorm_before", "layernorm_after")),
        Rename("vit_nepa.layernorm.*", "layernorm.*"),
    )
)
# Parts of a flat file by the first name of their keys; "target_encoder" is what layouts call the encoder users want.
PARTS = {"vit_nepa": "target_encoder", "fc_norm": "fc_norm", "classifier": "classifier"}


def hub_entries(state: object) -> dict[str, dict[str, torch.Tensor]]:
    """A flat state dict of the Hub as the entries of `LAYOUT`, or of `CLASSIFIER_LAYOUT` where it has a classifier.

    Args:
        state: official key -> tensor.

    Raises:
        ConversionError: not a state dict, or keys that no NEPA has.

    Example:
        >>> import torch
        >>> sorted(hub_entries({"vit_nepa.layernorm.bias": torch.zeros(2), "classifier.bias": torch.zeros(3)}))
        ['classifier', 'target_encoder']
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError("not an official NEPA checkpoint: expected one state dict, official key -> tensor")
    if unknown := [str(key) for key in state if str(key).split(".")[0] not in PARTS]:
        raise ConversionError(f"not an official NEPA checkpoint: {len(unknown)} keys are not its: {some(unknown)}")
    entries: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        entries.setdefault(PARTS[key.split(".")[0]], {})[key] = value
    return entries


def hub_state(entries: Mapping[str, State]) -> dict[str, torch.Tensor]:
    """The flat state dict of the Hub from the entries of a layout.

    Example:
        >>> import torch
        >>> list(hub_state({"target_encoder": {"vit_nepa.layernorm.bias": torch.zeros(2)}}))
        ['vit_nepa.layernorm.bias']
    """
    return {key: value for part in entries.values() for key, value in part.items()}


def layout_of(entries: Mapping[str, State]) -> OfficialLayout:
    """The layout of a file: that of a classifier, or that of pretraining."""
    return CLASSIFIER_LAYOUT if "classifier" in entries else LAYOUT


def _read(encoder: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell; images are taken to be 16 patches a side, as the released ones."""
    first = BLOCK.replace("{i}", "0")
    width, channels, height, breadth = sizes(
        encoder, "vit_nepa.embeddings.patch_embeddings.projection.weight", "width channels height width"
    )
    hidden, _ = sizes(encoder, f"{first}.intermediate.up_proj.weight", "hidden width")
    fields = {
        "hidden_size": width,
        "num_hidden_layers": count(encoder, BLOCK.replace("{i}", "")),
        "intermediate_size": hidden,
        "num_channels": channels,
        "patch_size": side(height, breadth),
        "image_size": side(16 * height, 16 * breadth),
        "use_gated_mlp": f"{first}.intermediate.gate_proj.weight" in encoder,
        "qkv_bias": f"{first}.attention.attention.query.bias" in encoder,
    }
    if f"{first}.layer_scale.lambda1" not in encoder:
        fields["layerscale_value"] = None
    if f"{first}.attention.attention.q_norm.weight" in encoder:
        bias = f"{first}.attention.attention.q_norm.bias" in encoder
        fields |= {"qk_norm": True, "qk_norm_affine": True, "qk_norm_bias": bias}
    return fields


def _releases() -> dict[str, Release]:
    """The released repositories. Fine-tuning is not causal, and its norms of queries and keys have a scale."""
    found = {}
    for size, fields in SIZES.items():
        shape = {name: fields[name] for name in ("hidden_size", "num_hidden_layers", "patch_size")}
        for suffix, causal in (("", True), ("-sft", False)):
            affine = fields.get("qk_norm_affine", False) or not causal
            found[f"SixAILab/nepa-{size.removeprefix('vit_')}-patch14-224{suffix}"] = Release(
                shape | {"qk_norm_affine": affine, "is_causal": causal}, untold={"qk_norm": True}
            )
    return found


UNTOLD = ("qk_norm", "is_causal", "hidden_act", "layer_norm_eps", "rope_theta", "image_size")
LAYOUT = OfficialLayout(
    title="NEPA checkpoint of images",
    config_class=NepaConfig,
    model_class=NepaForPreTraining,
    entries={"target_encoder": Entry(ENCODER, "nepa")},
    required=("target_encoder",),
    wrappers=(),
    read=_read,
    heads={"num_attention_heads": Heads.of_sizes(SIZES)},
    untold=UNTOLD,
    released=_releases(),
)
CLASSIFIER_LAYOUT = OfficialLayout(
    title="NEPA classifier of images",
    config_class=NepaConfig,
    model_class=NepaForImageClassification,
    entries={
        "target_encoder": Entry(ENCODER, "nepa"),
        "fc_norm": Entry(KeyMap((Rename("fc_norm.*", "*"),)), "fc_norm"),
        "classifier": Entry(KeyMap((Rename("classifier.*", "*"),)), "classifier"),
    },
    required=("target_encoder", "classifier"),
    wrappers=(),
    read=_read,
    heads={"num_attention_heads": Heads.of_sizes(SIZES)},
    untold=(*UNTOLD, "add_pooling_layer"),
    released=_releases(),
)

__all__ = [
    "CLASSIFIER_LAYOUT",
    "ENCODER",
    "LAYOUT",
    "hub_entries",
    "hub_state",
    "layout_of",
]
