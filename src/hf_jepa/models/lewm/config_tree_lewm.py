"""The `config.json` of a released LeWorldModel folder <-> our config: a tree of class paths and their arguments.

It is read as data: its class paths are compared with names that are known here, and never imported.
"""

from collections.abc import Mapping
from typing import Any

from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.models.lewm.configuration_lewm import PUBLISHED_ENCODER, LeWorldModelConfig


# Named sizes of the official encoder: width, layers, heads; MLPs are four times as wide.
VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
VIT_SIZES["huge"] = (1280, 32, 16)
HEAD_DIM = 64  # of the released predictors
# (part, argument) of the tree -> the number in our config. Those of `encoder` are read by `_encoder_fields`.
NUMBERS = {
    ("predictor", "num_frames"): lambda config: config.context_frames,
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


__all__ = ["ENCODER_FIELDS", "HEAD_DIM", "VIT_SIZES", "check_tree", "config_tree", "fields_of_tree"]
