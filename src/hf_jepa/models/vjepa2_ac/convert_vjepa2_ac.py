"""Official V-JEPA 2-AC checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename
from hf_jepa.core.video_conversion import block_rules
from hf_jepa.models.vjepa2.configuration_vjepa2 import SIZES
from hf_jepa.models.vjepa2.convert_vjepa2 import ENCODER, V21, read_networks
from hf_jepa.models.vjepa2.convert_vjepa2 import LAYOUT as VJEPA2_LAYOUT
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining


PREDICTOR = KeyMap(
    (
        Rename("predictor_embed.*", "embeddings.predictor_embeddings.*"),
        *(Rename(f"{kind}_encoder.*", f"embeddings.{kind}_encoder.*") for kind in ("action", "state", "extrinsics")),
        *block_rules("predictor_blocks"),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
    )
)


def _read(encoder: State, predictor: State) -> dict[str, Any]:
    """The config fields that the tensors tell."""
    if "action_encoder.weight" not in predictor:
        raise ConversionError("its predictor is told no actions: a V-JEPA 2, say")
    told = {"action_dim": "action_encoder.weight", "state_dim": "state_encoder.weight"}
    dims = {name: sizes(predictor, key, "width numbers")[1] for name, key in told.items() if key in predictor}
    return read_networks(encoder, predictor) | {"state_dim": 0} | dims


class ACLayout(OfficialLayout):
    """A layout of one frozen encoder, which the official training keeps twice and its loader reads as `encoder`."""

    def revert(self, state: State, config: PreTrainedConfig) -> dict[str, dict[str, torch.Tensor]]:
        """As `OfficialLayout.revert`; both encoders are the same tensors, which a file holds once."""
        official = super().revert(state, config)
        return {**dict.fromkeys(self.target_keys, official[self._entry_names(config)[self.target_part]]), **official}


LAYOUT = ACLayout(
    title="V-JEPA 2-AC checkpoint",
    config_class=VJepa2ACConfig,
    model_class=VJepa2ACForPreTraining,
    entries={
        # Equal in a file of a whole run. The predictor was trained on what the first one says.
        "target_encoder": Entry(ENCODER, "vjepa2_ac.encoder"),
        "encoder": Entry(ENCODER, "vjepa2_ac.encoder"),
        "predictor": Entry(PREDICTOR, "vjepa2_ac.predictor"),
    },
    required=("predictor",),
    wrappers=("module.",),
    more_wrappers=("backbone.",),
    read=_read,
    heads={
        "num_attention_heads": VJEPA2_LAYOUT.heads["num_attention_heads"],
        "pred_num_attention_heads": Heads(by=("pred_hidden_size",), known={(1024,): 16}),
    },
    untold=("crop_size", "frames_per_clip", "use_extrinsics", "state_update"),
    foreign=dict.fromkeys(("img_mod_embed", "video_mod_embed", "patch_embed_img", "norms_block"), V21),
    released={
        "vjepa2-ac-vitg.pt": Release(
            {name: SIZES["vit_giant"][name] for name in ("hidden_size", "num_hidden_layers")}
            | {"pred_hidden_size": 1024, "pred_num_hidden_layers": 24, "patch_size": 16, "tubelet_size": 2}
            | {"action_dim": 7, "state_dim": 7},
            {"crop_size": 256, "frames_per_clip": 8, "use_extrinsics": False, "state_update": "pose"},
        ),
    },
)

__all__ = ["LAYOUT", "PREDICTOR"]
