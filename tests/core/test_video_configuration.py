"""What no config of a video model may say."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_size": [256, 250]}, "does not divide into patches"),
        ({"crop_size": [250, 256]}, "does not divide into patches"),
        ({"crop_size": [256, 256, 256]}, "neither a number of pixels nor"),
        ({"frames_per_clip": 15}, "frames_per_clip 15"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"attention_probs_dropout_prob": 1.0}, "attention_probs_dropout_prob"),
        ({"num_pooler_layers": -1}, "num_pooler_layers must be at least 0, got -1"),
        ({"pooler_layer_norm_eps": 0.0}, "pooler_layer_norm_eps must be above 0, got 0.0"),
        ({"initializer_range": 0.0}, "initializer_range"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 gives no width"),
        ({"pred_mlp_ratio": 0.0}, "pred_mlp_ratio 0.0 gives no width"),
        ({"hidden_act": "guess"}, "hidden_act='guess'"),
        ({"pred_num_mask_tokens": 0}, "pred_num_mask_tokens"),
        ({"rope_grid_size": 0}, "rope_grid_size"),
        ({"rope_layout": "spiral"}, "rope_layout='spiral'"),
        ({"pred_hidden_size": 48, "pred_num_attention_heads": 12}, "pred_hidden_size 48 in 12 heads"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        VJepa2Config(**fields)
