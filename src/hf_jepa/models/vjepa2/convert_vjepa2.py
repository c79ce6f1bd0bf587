"""Official V-JEPA 2 checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from collections.abc import Mapping
from typing import Any

from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, sizes
from hf_jepa.core.key_map import ConversionError, Drop, KeyMap, Rename, Stack
from hf_jepa.core.probe_conversion import PROBE, ProbeLayout, Protocol
from hf_jepa.core.video_conversion import block_rules, encoder_fields, mask_token_fields, predictor_fields
from hf_jepa.models.vjepa2.anticipation_vjepa2 import VJepa2ForActionAnticipation
from hf_jepa.models.vjepa2.configuration_vjepa2 import SIZES, VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2ForVideoClassification


ENCODER = KeyMap(
    (
        Drop("pos_embed"),
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.proj.*"),
        *block_rules("blocks"),
        Rename("norm.*", "layernorm.*"),
    )
)
PREDICTOR = KeyMap(
    (
        Drop("predictor_pos_embed"),
        Rename("predictor_embed.*", "embeddings.predictor_embeddings.*"),
        Stack("mask_tokens.{i}", "embeddings.mask_tokens"),
        *block_rules("predictor_blocks"),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
    )
)


def _read(encoder: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell."""
    fields = read_networks(encoder, predictor)
    return fields if predictor is None else fields | mask_token_fields(predictor)


def read_networks(encoder: State, predictor: State | None) -> dict[str, Any]:
    """The config fields of both networks, whatever the predictor is told beside tokens."""
    fields = encoder_fields(encoder) | ({} if predictor is None else predictor_fields(predictor))
    widths = {"mlp_ratio": sizes(encoder, "blocks.0.mlp.fc1.weight", "hidden width")}
    if predictor is not None:
        widths["pred_mlp_ratio"] = sizes(predictor, "predictor_blocks.0.mlp.fc1.weight", "hidden width")
    return fields | _gates(widths, gated="blocks.0.mlp.fc3.weight" in encoder)


def _gates(widths: Mapping[str, tuple[int, ...]], gated: bool) -> dict[str, Any]:
    """Whether networks are gated, and then their ratios, from the (hidden, outer) width behind each.

    The hidden width of a wide gated network is rounded, so several ratios have it. Where the usual one does, that is
    taken; elsewhere the network is described as one that is not wide, which is the same function.
    """
    if not gated:
        return {"use_silu": False}
    usual = {name: getattr(VJepa2Config, name) for name in widths}
    wide = VJepa2Config(use_silu=True, wide_silu=True)
    if all(wide.mlp_width(outer, usual[name]) == hidden for name, (hidden, outer) in widths.items()):
        return usual | {"use_silu": True, "wide_silu": True}
    return {"use_silu": True, "wide_silu": False}


def _check_positions(parts: Mapping[str, State], config: VJepa2Config, given: frozenset[str]) -> None:
    """Refuse V-JEPA 1, whose files differ in their position tables alone.

    Files of V-JEPA 2 may hold such tables too, left from code that made them. They are taken for V-JEPA 2 where the
    architecture is that of a released file, or somebody says by `rope_layout` that its positions are rotary.
    """
    tables = [f"{entry}.{key}" for entry, part in parts.items() for key in part if key.endswith("pos_embed")]
    if tables and "rope_layout" not in given and not LAYOUT.released_names(config):
        raise ConversionError(
            f"it holds the position tables {', '.join(tables)}, as a V-JEPA 1 checkpoint does: convert it as vjepa, "
            "or, if the model was trained with rotary positions, say so by rope_layout in the file of --config"
        )


def _release(size: str, crop: int) -> Release:
    fields = {name: SIZES[size][name] for name in ("hidden_size", "num_hidden_layers")}
    predictor = {"pred_hidden_size": 384, "pred_num_hidden_layers": 12, "pred_num_mask_tokens": 10}
    return Release(
        fields | predictor | {"patch_size": 16, "tubelet_size": 2}, {"crop_size": crop, "frames_per_clip": 64}
    )


V21 = "V-JEPA 2.1: convert the file as vjepa2_1"
AC = "V-JEPA 2-AC, whose predictor is told actions: convert the file as vjepa2_ac"
LAYOUT = OfficialLayout(
    title="V-JEPA 2 checkpoint",
    config_class=VJepa2Config,
    model_class=VJepa2ForPreTraining,
    entries={
        "encoder": Entry(ENCODER, "context_encoder"),
        "target_encoder": Entry(ENCODER, "vjepa2.encoder"),
        "predictor": Entry(PREDICTOR, "vjepa2.predictor"),
    },
    required=(),
    wrappers=("module.", "backbone."),
    read=_read,
    heads={
        "num_attention_heads": Heads.of_sizes(SIZES),
        "pred_num_attention_heads": Heads(by=("pred_hidden_size",), known={(384,): 12}),
    },
    untold=("crop_size", "frames_per_clip"),
    foreign={
        **dict.fromkeys(("img_mod_embed", "video_mod_embed", "patch_embed_img", "norms_block"), V21),
        **dict.fromkeys(("action_encoder", "state_encoder", "extrinsics_encoder"), AC),
    },
    check=_check_positions,
    released={
        "vitl.pt": _release("vit_large", 256),
        "vith.pt": _release("vit_huge", 256),
        "vitg.pt": _release("vit_giant", 256),
        "vitg-384.pt": _release("vit_giant", 384),
    },
)


def protocols(encoder: Mapping[str, Any], large: bool, layers: tuple[int, ...]) -> tuple[Protocol, ...]:
    """The official evaluations of an encoder (paper, section 5 and appendix).

    Args:
        encoder: fields of its config.
        large: it is a ViT-g or larger, which is shown more frames of some data.
        layers: those that the probes of fine movements read.
    """
    fourth, second, still = "every 4th of the video", "every 2nd of the video", "an image repeated"
    return (
        Protocol("k400", "Kinetics-400", 400, 16, fourth, 8, 3, encoder),
        Protocol("ssv2", "Something-Something v2", 174, *((64, second) if large else (16, fourth)), 2, 3, encoder),
        Protocol("coin", "COIN", 180, 16, fourth, 8, 3, encoder),
        Protocol("diving48", "Diving48", 48, 32, second, 4, 3, encoder, layers),
        Protocol("jester", "Jester", 27, 32, second, 4, 3, encoder, layers),
        Protocol("in1k", "ImageNet-1k", 1000, 18 if large else 16, still, encoder=encoder),
        Protocol("ek100", "EPIC-Kitchens-100", None, 32, "8 a second", encoder=encoder),
    )


def probed_encoder(table: Mapping[str, Mapping[str, Any]], size: str, crop: int) -> dict[str, Any]:
    """The config fields by which the encoder of an official probe is known."""
    return {name: table[size][name] for name in ("hidden_size", "num_hidden_layers")} | {"crop_size": crop}


VITL, VITG = probed_encoder(SIZES, "vit_large", 256), probed_encoder(SIZES, "vit_giant", 384)
PROBES = ProbeLayout(
    title="V-JEPA 2",
    entry="classifiers",
    several=True,
    key_map=PROBE,
    num_attention_heads=16,  # whatever the encoder has
    models={"classification": VJepa2ForVideoClassification, "anticipation": VJepa2ForActionAnticipation},
    protocols=(*protocols(VITL, False, (17, 19, 21, 23)), *protocols(VITG, True, (24, 29, 34, 39))),
    released={
        "ssv2-vitl-16x2x3.pt": VITL,
        "diving48-vitl-256.pt": VITL,
        "ek100-vitl-256.pt": VITL,
        "ssv2-vitg-384-64x2x3.pt": VITG,
        "diving48-vitg-384-32x4x3.pt": VITG,
        "ek100-vitg-384.pt": VITG,
    },
)

__all__ = [
    "ENCODER",
    "LAYOUT",
    "PREDICTOR",
    "PROBES",
    "probed_encoder",
    "protocols",
    "read_networks",
]
