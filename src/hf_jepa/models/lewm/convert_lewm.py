"""Official LeWorldModel checkpoints <-> ours: the key table, and an architecture read off tensors and `config.json`.

A released folder has `weights.pt`, one plain state dict, and `config.json`, a tree of class paths and their arguments.
The tree is read as data: its class paths are compared with names that are known here, and never imported.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_jepa.core.conversion import Entry, OfficialLayout, State, count, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Split, some
from hf_jepa.models.lewm.configuration_lewm import PUBLISHED_ENCODER, LeWorldModelConfig
from hf_jepa.models.lewm.modeling_lewm import LeWorldModelForPreTraining


# The ViT of transformers is saved under the names that it had until version 5; files of later ones have those of now.
BLOCK, LATER_BLOCK, LAYER = "encoder.encoder.layer.{i}", "encoder.layers.{i}", "encoder.layers.{i}"
VIT_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
PREDICTOR_BLOCK, PREDICTOR_LAYER = "predictor.transformer.layers.{i}", "predictor.layers.{i}"
PREDICTOR_NAMES = {
    "attn.norm": "attention.norm",
    "attn.to_out.0": "attention.o_proj",
    "mlp.net.0": "mlp.norm",
    "mlp.net.1": "mlp.fc1",
    "mlp.net.4": "mlp.fc2",
    "adaLN_modulation.1": "modulation",
}
KEYS = KeyMap(
    (
        *(Rename(f"{BLOCK}.{official}.*", f"{LAYER}.{ours}.*") for official, ours in VIT_NAMES.items()),
        Rename(f"{LATER_BLOCK}.*", f"{LAYER}.*"),
        Rename("encoder.embeddings.*", "encoder.embeddings.*"),
        Rename("encoder.layernorm.*", "encoder.layernorm.*"),
        Rename("projector.net.*", "projector.*"),
        Rename("pred_proj.net.*", "prediction_projector.*"),
        Rename("action_encoder.patch_embed.*", "action_encoder.smoothing.*"),
        Rename("action_encoder.embed.0.*", "action_encoder.fc1.*"),
        Rename("action_encoder.embed.2.*", "action_encoder.fc2.*"),
        Rename("predictor.pos_embedding", "predictor.position_embeddings"),
        Rename("predictor.transformer.norm.*", "predictor.layernorm.*"),
        Split(
            f"{PREDICTOR_BLOCK}.attn.to_qkv.weight",
            tuple(f"{PREDICTOR_LAYER}.attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")),
        ),
        *(
            Rename(f"{PREDICTOR_BLOCK}.{official}.*", f"{PREDICTOR_LAYER}.{ours}.*")
            for official, ours in PREDICTOR_NAMES.items()
        ),
    )
)
PARTS = ("encoder", "predictor", "action_encoder", "projector", "pred_proj")
# Named sizes of the official encoder; MLPs are four times as wide.
VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
VIT_SIZES["huge"] = (1280, 32, 16)
HEAD_DIM = 64  # of the released predictors
PUBLISHED_INNER = (192, 1024)  # width of the predictor and of its attention


@dataclass(frozen=True)
class _WeightsFile(OfficialLayout):
    """A layout whose files are one flat state dict, which is taken for its only entry."""

    def present(self, checkpoint: object) -> list[str]:
        return super().present(_as_entry(checkpoint))

    def parts(self, checkpoint: object) -> dict[str, dict[str, torch.Tensor]]:
        if (entry := _as_entry(checkpoint)) is None:
            found = type(checkpoint).__name__
            if isinstance(checkpoint, Mapping):
                found = some(sorted(map(str, checkpoint)))
            raise ConversionError(
                f"not an official {self.title}: expected one state dict with keys of {', '.join(PARTS)}, found {found}"
            )
        state = entry["target_encoder"]
        if any(key.startswith("encoder.layers.") for key in state) and any(
            key.startswith("encoder.encoder.") for key in state
        ):
            raise ConversionError(f"not an official {self.title}: its encoder has names of two versions of ViT")
        return super().parts(entry)

    def fits(self, checkpoint: object) -> None:
        known = ("backbone_config", "pred_num_attention_heads", "pred_head_dim")  # one head suits every width
        read = _read(self.parts(checkpoint)["target_encoder"], None)
        self.convert(checkpoint, self.infer_config(checkpoint, **{name: read[name] for name in known}))

    def fields_not_in_layout(self, config: PreTrainedConfig, official: object) -> dict[str, Any]:
        default = self.config_class()
        lost = {name: getattr(config, name) for name in (*self.untold, "pred_num_attention_heads", "pred_head_dim")}
        lost = {name: value for name, value in lost.items() if value != getattr(default, name)}
        encoder = {name: getattr(config.backbone_config, name) for name in ENCODER_FIELDS}
        if encoder != {name: getattr(default.backbone_config, name) for name in ENCODER_FIELDS}:
            lost["backbone_config"] = {"model_type": "vit"} | encoder
        return lost

    def unused(self, checkpoint: Mapping) -> list[str]:
        return []

    def revert(self, state: State, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        """Our tensors -> the flat state dict of a `weights.pt`."""
        if config.backbone_config.model_type != "vit":
            raise ConversionError(
                f"the encoder is of type {config.backbone_config.model_type!r}, official files have a 'vit'"
            )
        return super().revert(state, config)["target_encoder"]


def _as_entry(checkpoint: object) -> dict[str, Mapping] | None:
    """A flat state dict as the entry of a layout, which it may be already; None where it is something else."""
    state = checkpoint
    if isinstance(checkpoint, Mapping) and checkpoint.keys() == {"target_encoder"}:
        state = checkpoint["target_encoder"]
    if not isinstance(state, Mapping) or "predictor.pos_embedding" not in state:
        return None
    if any(str(key).split(".")[0] not in PARTS for key in state):
        return None
    return {"target_encoder": state}


def _read(state: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell; frames are taken to be square."""
    block = BLOCK if any(key.startswith("encoder.encoder.") for key in state) else LATER_BLOCK
    first = block.replace("{i}", "0")
    query, fc1 = ("attention.attention.query", "intermediate.dense")
    if block == LATER_BLOCK:
        query, fc1 = VIT_NAMES[query], VIT_NAMES[fc1]
    width, channels, patch, _ = sizes(
        state, "encoder.embeddings.patch_embeddings.projection.weight", "width channels height width"
    )
    _, positions, _ = sizes(state, "encoder.embeddings.position_embeddings", "one positions width")
    hidden, _ = sizes(state, f"{first}.{fc1}.weight", "hidden width")
    _, window, size = sizes(state, "predictor.pos_embedding", "one frames width")
    start = PREDICTOR_BLOCK.replace("{i}", "0")
    qkv, _ = sizes(state, f"{start}.attn.to_qkv.weight", "queries_keys_values width")
    mlp, _ = sizes(state, f"{start}.mlp.net.1.weight", "hidden width")
    proj, _ = sizes(state, "projector.net.0.weight", "hidden width")
    smoothed, action_dim, _ = sizes(state, "action_encoder.patch_embed.weight", "smoothed actions one")
    action_hidden, _ = sizes(state, "action_encoder.embed.0.weight", "hidden smoothed")
    known = {sizes_[0]: sizes_[2] for sizes_ in VIT_SIZES.values()}
    inner = qkv // 3
    heads, head_dim = (inner // HEAD_DIM, HEAD_DIM) if inner % HEAD_DIM == 0 else (1, inner)  # see `_check`
    return {
        "backbone_config": PUBLISHED_ENCODER
        | {
            "hidden_size": width,
            "num_hidden_layers": count(state, block.replace("{i}", "")),
            "num_attention_heads": known.get(width, 1),  # refused by `_check` where it is a guess
            "intermediate_size": hidden,
            "image_size": math.isqrt(max(positions - 1, 0)) * patch,
            "patch_size": patch,
            "num_channels": channels,
            "qkv_bias": f"{first}.{query}.bias" in state,
        },
        "hidden_size": size,
        "proj_hidden_size": proj,
        "action_dim": action_dim,
        "frame_skip": 5 if action_dim % 5 == 0 else 1,
        "frames_per_clip": window + 1,
        "num_context_frames": window,
        "action_smoothed_size": smoothed,
        "action_mlp_ratio": action_hidden // size,
        "pred_num_hidden_layers": count(state, PREDICTOR_BLOCK.replace("{i}", "")),
        "pred_num_attention_heads": heads,
        "pred_head_dim": head_dim,
        "pred_intermediate_size": mlp,
    }


def _check(parts: Mapping[str, State], config: PreTrainedConfig, given: frozenset[str]) -> None:
    """Numbers of heads leave no trace in the tensors: where the sizes are not named ones, they must be given."""
    width = config.backbone_config.hidden_size
    if "backbone_config" not in given and width not in {size[0] for size in VIT_SIZES.values()}:
        raise ConversionError(
            f"an encoder of width {width} is no named size, so its number of attention heads cannot be known: give "
            "all fields of backbone_config by --config, or convert a folder with its config.json"
        )
    qkv = sizes(parts["target_encoder"], f"{PREDICTOR_BLOCK}.attn.to_qkv.weight".replace("{i}", "0"), "qkv width")[0]
    named = (config.hidden_size, qkv // 3) == PUBLISHED_INNER
    if not named and not {"pred_num_attention_heads", "pred_head_dim"} <= given:
        raise ConversionError(
            f"a predictor of width {config.hidden_size} with an attention of width {qkv // 3} is no named size, so "
            "its number of attention heads cannot be known: give pred_num_attention_heads and pred_head_dim by "
            "--config, or convert a folder with its config.json"
        )


UNTOLD = ("frame_skip", "frames_per_clip", "pooling", "pred_dropout", "sigreg_weight", "sigreg_num_slices")
LAYOUT = _WeightsFile(
    title="LeWorldModel checkpoint",
    config_class=LeWorldModelConfig,
    model_class=LeWorldModelForPreTraining,
    entries={"target_encoder": Entry(KEYS, "lewm")},
    required=("target_encoder",),
    wrappers=(),
    read=_read,
    heads={},
    untold=UNTOLD,
    check=_check,
)
convert, infer_config, revert = LAYOUT.convert, LAYOUT.infer_config, LAYOUT.revert


# --- config.json ----------------------------------------------------------------------------------------------------

# (part, argument) of the tree -> the number in our config. Those of `encoder` are read by `_encoder_fields`.
NUMBERS = {
    ("predictor", "num_frames"): lambda config: config.num_context_frames,
    ("predictor", "input_dim"): lambda config: config.hidden_size,
    ("predictor", "hidden_dim"): lambda config: config.hidden_size,
    ("predictor", "output_dim"): lambda config: config.hidden_size,
    ("predictor", "depth"): lambda config: config.pred_num_hidden_layers,
    ("predictor", "heads"): lambda config: config.pred_num_attention_heads,
    ("predictor", "dim_head"): lambda config: config.pred_head_dim,
    ("predictor", "mlp_dim"): lambda config: config.pred_intermediate_size,
    ("predictor", "dropout"): lambda config: config.pred_dropout,
    ("predictor", "emb_dropout"): lambda config: 0.0,
    ("action_encoder", "input_dim"): lambda config: config.action_dim,
    ("action_encoder", "smoothed_dim"): lambda config: config.action_smoothed_size,
    ("action_encoder", "emb_dim"): lambda config: config.hidden_size,
    ("action_encoder", "mlp_scale"): lambda config: config.action_mlp_ratio,
    ("projector", "input_dim"): lambda config: config.backbone_config.hidden_size,
    ("projector", "hidden_dim"): lambda config: config.proj_hidden_size,
    ("projector", "output_dim"): lambda config: config.hidden_size,
    ("pred_proj", "input_dim"): lambda config: config.hidden_size,
    ("pred_proj", "hidden_dim"): lambda config: config.proj_hidden_size,
    ("pred_proj", "output_dim"): lambda config: config.hidden_size,
}
CLASSES = {
    "encoder": "stable_pretraining.backbone.utils.vit_hf",
    "predictor": "module.ARPredictor",
    "action_encoder": "module.Embedder",
    "projector": "module.MLP",
    "pred_proj": "module.MLP",
}
BATCH_NORM = {"_target_": "torch.nn.BatchNorm1d", "_partial_": True}
VIT_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
ENCODER_FIELDS = (*VIT_FIELDS, "image_size", "patch_size", "num_channels", "layer_norm_eps", "qkv_bias")


def fields_of_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the tensors cannot tell, from the `config.json` beside them: heads and dropout.

    Args:
        tree: its content. Class paths in it are compared, not imported.

    Returns:
        config fields, to be given to `infer_config`.

    Raises:
        ConversionError: a part is missing, of another class, or has arguments that are not known here.

    Example:
        >>> from hf_jepa import LeWorldModelConfig
        >>> fields_of_tree(config_tree(LeWorldModelConfig()))["pred_num_attention_heads"]
        16
    """
    for part, path in CLASSES.items():
        if not isinstance(found := tree.get(part), Mapping):
            raise ConversionError(f"config.json has no part {part!r}, expected {', '.join(CLASSES)}")
        name = path.rpartition(".")[2]
        if str(found.get("_target_", name)).rpartition(".")[2] != name:
            raise ConversionError(f"config.json has a {part} of class {found['_target_']!r}, expected {name}")
    predictor = tree["predictor"]
    return {
        "backbone_config": _encoder_fields(tree["encoder"]),
        "pred_num_attention_heads": _number(predictor, "heads", 16, int),
        "pred_head_dim": _number(predictor, "dim_head", HEAD_DIM, int),
        "pred_dropout": _number(predictor, "dropout", 0.0, int | float),
    }


def check_tree(tree: Mapping[str, Any], config: LeWorldModelConfig) -> None:
    """Refuse a `config.json` that speaks of another model than the tensors beside it.

    Raises:
        ConversionError: a number differs, or an argument is not known here.
    """
    for part in CLASSES:
        for name, value in tree[part].items():
            if part == "encoder" or name in ("_target_", "norm_fn"):
                continue
            if (part, name) not in NUMBERS:
                raise ConversionError(f"config.json: {part} has an argument {name!r} that is not known here")
            if value != (own := NUMBERS[part, name](config)):
                raise ConversionError(f"config.json says {part}.{name} {value!r}, the weights are of {own}")
        norm = tree[part].get("norm_fn", BATCH_NORM)
        if not isinstance(norm, Mapping) or norm.get("_target_") != BATCH_NORM["_target_"]:
            raise ConversionError(f"config.json: {part} has norm_fn {norm!r}, expected torch.nn.BatchNorm1d")


def config_tree(config: LeWorldModelConfig) -> dict[str, Any]:
    """The `config.json` of a released folder.

    Example:
        >>> from hf_jepa import LeWorldModelConfig
        >>> config_tree(LeWorldModelConfig())["encoder"]
        {'_target_': 'stable_pretraining.backbone.utils.vit_hf', 'size': 'tiny', 'patch_size': 14, 'image_size': 224, \
'pretrained': False, 'use_mask_token': False}
    """
    encoder = config.backbone_config
    own = {name: getattr(encoder, name) for name in ENCODER_FIELDS}
    named = [size for size in VIT_SIZES if all(own[name] == value for name, value in _named(size).items())]
    size = named[0] if named else "tiny"
    base = PUBLISHED_ENCODER | {"num_channels": 3, "qkv_bias": True} | _named(size)
    apart = {name: value for name, value in own.items() if name not in ("image_size", "patch_size")}
    apart = {name: value for name, value in apart.items() if value != base[name]}
    tree: dict[str, Any] = {"_target_": "jepa.JEPA"}
    tree["encoder"] = {
        "_target_": CLASSES["encoder"],
        "size": size,
        "patch_size": encoder.patch_size,
        "image_size": encoder.image_size,
        "pretrained": False,
        "use_mask_token": False,
    } | apart
    for part in ("predictor", "action_encoder", "projector", "pred_proj"):
        tree[part] = {"_target_": CLASSES[part]}
        tree[part] |= {name: value(config) for (owner, name), value in NUMBERS.items() if owner == part}
    for part in ("projector", "pred_proj"):
        tree[part]["norm_fn"] = dict(BATCH_NORM)
    return tree


def _named(size: str) -> dict[str, int]:
    width, depth, heads = VIT_SIZES[size]
    return dict(zip(VIT_FIELDS, (width, depth, heads, 4 * width), strict=True))


def _encoder_fields(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The whole `backbone_config` of an encoder of the tree: a named size, and what is said apart from it."""
    if (size := tree.get("size", "tiny")) not in VIT_SIZES:
        raise ConversionError(f"config.json has an encoder of size {size!r}, not one of {', '.join(VIT_SIZES)}")
    fields = PUBLISHED_ENCODER | {"patch_size": 16} | _named(size)
    known = (*ENCODER_FIELDS, "size", "pretrained", "use_mask_token", "_target_")
    if unknown := [name for name in tree if name not in known]:
        raise ConversionError(f"config.json: encoder has arguments that are not known here: {some(unknown)}")
    if tree.get("use_mask_token", False):
        raise ConversionError("config.json has an encoder with use_mask_token, the weights of which nothing reads")
    for name in ENCODER_FIELDS:
        if name in tree:
            fields[name] = _number(tree, name, None, int | float)
    return fields


def _number(tree: Mapping[str, Any], name: str, default: Any, kind: Any) -> Any:
    if not isinstance(value := tree.get(name, default), kind):
        raise ConversionError(f"config.json has {name} {value!r:.120}, expected a number")
    return value


__all__ = [
    "KEYS",
    "LAYOUT",
    "check_tree",
    "config_tree",
    "convert",
    "fields_of_tree",
    "infer_config",
    "revert",
]
