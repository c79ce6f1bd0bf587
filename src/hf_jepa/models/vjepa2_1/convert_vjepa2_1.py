"""Official V-JEPA 2.1 checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from typing import Any

from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, count, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Stack
from hf_jepa.core.probe_conversion import PROBE, ProbeLayout
from hf_jepa.core.video_conversion import block_rules, encoder_fields, mask_token_fields, predictor_fields
from hf_jepa.models.vjepa2.convert_vjepa2 import probed_encoder, protocols
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import LEVELS, SIZES, VJepa21Config
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21ForPreTraining, VJepa21ForVideoClassification


MODALITIES = (
    Rename("video_mod_embed", "embeddings.modality.video"),
    Rename("img_mod_embed", "embeddings.modality.image"),
)
ENCODER = KeyMap(
    (
        *MODALITIES,
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.proj.*"),
        Rename("patch_embed_img.proj.*", "embeddings.image_patch_embeddings.proj.*"),
        *block_rules("blocks"),
        Rename("norms_block.3.*", "layernorm.*"),  # of the last of the four levels
        Rename("norms_block.{i}.*", "level_layernorms.{i}.*"),
    )
)
PREDICTOR = KeyMap(
    (
        *MODALITIES,
        Rename("predictor_embed.*", "embeddings.predictor_embeddings.*"),
        Stack("mask_tokens.{i}", "embeddings.mask_tokens"),
        *block_rules("predictor_blocks"),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
        Rename("predictor_proj_context.*", "proj_context.*"),
    )
)


def _read(encoder: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell."""
    fields = encoder_fields(encoder)
    fields |= {
        "modality_embedding": "video_mod_embed" in encoder,
        "rope_grid_size": 18 if fields["patch_size"] == 14 else VJepa21Config.rope_grid_size,  # 252 / 14, 256 / 16
    }
    if predictor is None:
        return fields
    return fields | _read_predictor(predictor, fields["hidden_size"], count(encoder, "norms_block."))


def _read_predictor(predictor: State, width: int, levels: int) -> dict[str, Any]:
    several = "predictor_embed.2.weight" in predictor
    _, read_width = sizes(predictor, f"predictor_embed.{'0.' * several}weight", "hidden encoder_width")
    predicted, _ = sizes(predictor, "predictor_proj.weight", "predicted width")
    read, rest = divmod(read_width, width)
    if rest or not read or predicted % read:
        raise ConversionError(
            f"its predictor reads {read_width} features and predicts {predicted}: no levels of an encoder of width "
            f"{width}"
        )
    fields = predictor_fields(predictor, f"predictor_embed.{'2.' * several}weight") | mask_token_fields(predictor)
    return fields | {
        "pred_num_levels": None if read == levels else read,
        "teacher_hidden_size": None if predicted == read_width else predicted // read,
        "predict_context": "predictor_proj_context.weight" in predictor,
    }


def _release(size: str) -> Release:
    names = ("hidden_size", "num_hidden_layers", "pred_num_hidden_layers", "pred_num_levels", "teacher_hidden_size")
    fields = {name: SIZES[size].get(name) for name in names}
    fields |= {"pred_hidden_size": 384, "pred_num_mask_tokens": 8, "patch_size": 16, "tubelet_size": 2}
    return Release(fields, {"crop_size": 384, "frames_per_clip": 64})


V2 = "V-JEPA 2: convert the file as vjepa2"
LAYOUT = OfficialLayout(
    title="V-JEPA 2.1 checkpoint",
    config_class=VJepa21Config,
    model_class=VJepa21ForPreTraining,
    entries={
        "encoder": Entry(ENCODER, "context_encoder"),
        "target_encoder": Entry(ENCODER, "vjepa2_1.encoder"),
        "ema_encoder": Entry(ENCODER, "vjepa2_1.encoder"),  # so called in the distilled files
        "predictor": Entry(PREDICTOR, "vjepa2_1.predictor"),
    },
    required=(),
    wrappers=("module.", "backbone."),
    read=_read,
    heads={
        "num_attention_heads": Heads.of_sizes(SIZES),
        "pred_num_attention_heads": Heads(by=("pred_hidden_size",), known={(384,): 12}),
    },
    untold=("crop_size", "frames_per_clip", "levels"),
    foreign=dict.fromkeys(("norm", "pos_embed"), V2),
    released={
        "vjepa2_1_vitb_dist_vitG_384.pt": _release("vit_base"),
        "vjepa2_1_vitl_dist_vitG_384.pt": _release("vit_large"),
        "vjepa2_1_vitg_384.pt": _release("vit_giant"),
        "vjepa2_1_vitG_384.pt": _release("vit_gigantic"),
    },
)
# No probe is released; the files that the official evaluations write have the layout of V-JEPA 2.
PROBES = ProbeLayout(
    title="V-JEPA 2.1",
    entry="classifiers",
    several=True,
    key_map=PROBE,
    num_attention_heads=16,
    models={"classification": VJepa21ForVideoClassification},
    protocols=tuple(
        row
        for size, fields in SIZES.items()
        for row in protocols(
            probed_encoder(SIZES, size, 384),
            large=size in ("vit_giant", "vit_gigantic"),
            layers=LEVELS[fields["num_hidden_layers"]],
        )
    ),
)

__all__ = ["ENCODER", "LAYOUT", "PREDICTOR", "PROBES"]
