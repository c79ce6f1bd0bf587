"""Sizes of the models that the training tests share."""

from hf_jepa.registry import VARIANTS


CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 48,
    "patch_size": 8,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "initializer_range": 0.1,
}
VIDEO = [name for name, variant in VARIANTS.items() if variant.modality == "video"]
CLIPS = {"crop_size": 64, "patch_size": 8, "frames_per_clip": 4}  # of moving digits, 2 x 8 x 8 tokens
