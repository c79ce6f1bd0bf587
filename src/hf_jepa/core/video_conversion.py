"""What the converters of the video variants share: the keys of a transformer stack, and sizes read off the tensors."""

from typing import Any

from hf_jepa.core.conversion import State, count, exact_ratio, side, sizes
from hf_jepa.core.key_map import Rename, Split


def block_rules(official: str, gated: bool = True) -> tuple[Rename | Split, ...]:
    """The rules of a transformer stack, the same in encoder and predictor.

    Args:
        official: name of the stack in the file.
        gated: its feed-forward networks may have a third layer.

    Example:
        >>> block_rules("blocks")[0]
        Rename(official='blocks.{i}.norm1.*', ours='layer.{i}.norm1.*')
    """
    block, layer = f"{official}.{{i}}", "layer.{i}"
    return (
        *(Rename(f"{block}.{norm}.*", f"{layer}.{norm}.*") for norm in ("norm1", "norm2")),
        Split(f"{block}.attn.qkv.*", tuple(f"{layer}.attention.{part}.*" for part in ("query", "key", "value"))),
        Rename(f"{block}.attn.proj.*", f"{layer}.attention.proj.*"),
        *(Rename(f"{block}.mlp.fc{i}.*", f"{layer}.mlp.fc{i}.*") for i in (1, 2, 3)[: 2 + gated]),
    )


def encoder_fields(encoder: State) -> dict[str, Any]:
    """The config fields that the tensors of an official encoder of clips tell.

    Raises:
        ConversionError: one of the tensors is missing or has another number of sides.
    """
    patch_sides = "width channels tubelet height width"
    width, channels, tubelet, height, breadth = sizes(encoder, "patch_embed.proj.weight", patch_sides)
    hidden, _ = sizes(encoder, "blocks.0.mlp.fc1.weight", "hidden width")
    return {
        "hidden_size": width,
        "num_hidden_layers": count(encoder, "blocks."),
        "mlp_ratio": exact_ratio(hidden, width),
        "in_chans": channels,
        "tubelet_size": tubelet,
        "patch_size": side(height, breadth),
        "qkv_bias": "blocks.0.attn.qkv.bias" in encoder,
    }


def predictor_fields(predictor: State, embedding: str = "predictor_embed.weight") -> dict[str, Any]:
    """The same of an official predictor, without its mask tokens.

    Args:
        predictor: its tensors.
        embedding: key of the layer that brings tokens to its width.
    """
    width, _ = sizes(predictor, embedding, "width encoder_width")
    hidden, _ = sizes(predictor, "predictor_blocks.0.mlp.fc1.weight", "hidden width")
    return {
        "pred_hidden_size": width,
        "pred_num_hidden_layers": count(predictor, "predictor_blocks."),
        "pred_mlp_ratio": exact_ratio(hidden, width),
    }


def mask_token_fields(predictor: State) -> dict[str, Any]:
    """The number of a predictor's mask tokens; it must have one."""
    sizes(predictor, "mask_tokens.0", "1 1 width")
    return {"pred_num_mask_tokens": count(predictor, "mask_tokens.")}


__all__ = ["block_rules", "encoder_fields", "mask_token_fields", "predictor_fields"]
