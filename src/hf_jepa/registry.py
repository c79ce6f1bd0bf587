"""The one table of variants. Public names, Auto classes, tests, docs and the command line are derived from it."""

from hf_jepa.variant import Variant, class_names


# Fields that tiny configs share: of encoders, of a backbone or a language model of transformers, of predictors.
TINY_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_PREDICTOR = {"pred_hidden_size": 24, "pred_num_hidden_layers": 2}
TINY_IMAGE = TINY_ENCODER | {"intermediate_size": 64, "image_size": 32, "patch_size": 4}
TINY_VIT = TINY_IMAGE | {"model_type": "vit", "patch_size": 8, "layer_norm_eps": 1e-6}
TINY_VIEWS = {"backbone_config": TINY_VIT, "proj_hidden_size": 64, "proj_size": 32}
TINY_CLIP_ENCODER = TINY_ENCODER | {"mlp_ratio": 2.0, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4}
TINY_VIDEO = TINY_CLIP_ENCODER | TINY_PREDICTOR | {"pred_num_attention_heads": 2}
TINY_LLAMA = TINY_ENCODER | {
    "model_type": "llama",
    "vocab_size": 64,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
}
TINY_ROOMS = {
    "image_size": 17,
    "frames_per_clip": 6,
    "hidden_size": 12,
    "encoder_hidden_sizes": [4, 6, 8],
    "num_unroll_steps": 4,
    "inverse_dynamics_hidden_size": 10,
}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            name="ijepa",
            title="I-JEPA",
            paper="2301.08243",
            modality="image",
            **class_names("IJepa", "ImageClassification"),
            parts={"modeling": ("IJepaPredictor",), "image_processing": ("IJepaImageProcessor",)},
            native=True,
            weights_license="cc-by-nc-4.0",
            tiny=TINY_IMAGE | TINY_PREDICTOR,
        ),
        Variant(
            name="vjepa",
            title="V-JEPA",
            paper="2404.08471",
            modality="video",
            **class_names("VJepa", "VideoClassification"),
            parts={"modeling": ("VJepaPredictor",)},
            weights_license="cc-by-nc-4.0",
            processor_of="vjepa2",
            tiny=TINY_VIDEO,
        ),
        Variant(
            name="vjepa2",
            title="V-JEPA 2",
            paper="2506.09985",
            modality="video",
            **class_names("VJepa2", "VideoClassification"),
            parts={
                "modeling": ("VJepa2Encoder", "VJepa2Predictor"),
                "anticipation": ("VJepa2ForActionAnticipation",),
                "video_processing": ("VJepa2VideoProcessor",),
            },
            native=True,
            weights_license="mit",
            tiny=TINY_VIDEO,
        ),
        Variant(
            name="vjepa2_1",
            title="V-JEPA 2.1",
            paper="2603.14482",
            modality="video",
            **class_names("VJepa21", "VideoClassification"),
            parts={"modeling": ("VJepa21Encoder",), "parts": ("VJepa21Predictor",)},
            weights_license="mit",
            processor_of="vjepa2",
            tiny=TINY_VIDEO | {"levels": [0, 1]},
        ),
        Variant(
            name="data2vec_vision",
            title="data2vec (images)",
            paper="2202.03555",
            modality="image",
            inputs="in_place_masks",
            **class_names("Data2VecVision"),
            native=True,
            weights_license="mit",
            processor_of="ijepa",
            tiny=TINY_IMAGE | {"top_k_layers": 2},
        ),
        Variant(
            name="data2vec_audio",
            title="data2vec (speech)",
            paper="2202.03555",
            modality="audio",
            inputs="in_place_masks",
            **class_names("Data2VecAudio"),
            native=True,
            tiny=TINY_ENCODER
            | {
                "intermediate_size": 64,
                "conv_dim": [16, 16],
                "conv_kernel": [10, 4],
                "conv_stride": [5, 4],
                "num_conv_pos_embedding_groups": 4,
                "num_conv_pos_embeddings": 2,
                "conv_pos_kernel_size": 5,
                "top_k_layers": 2,
            },
        ),
        Variant(
            name="data2vec_text",
            title="data2vec (text)",
            paper="2202.03555",
            modality="text",
            inputs="in_place_masks",
            **class_names("Data2VecText"),
            native=True,
            tiny=TINY_ENCODER
            | {
                "intermediate_size": 64,
                "vocab_size": 64,
                "mask_token_id": 63,
                "max_position_embeddings": 66,
                "top_k_layers": 2,
            },
        ),
        Variant(
            name="nepa",
            title="NEPA",
            paper="2512.16922",
            modality="image",
            inputs="plain",
            **class_names("Nepa", "ImageClassification"),
            parts={"image_processing": ("NepaImageProcessor",)},
            weights_license="apache-2.0",
            tiny=TINY_IMAGE | {"qk_norm": True, "pos_embed_rescale": None},
        ),
        Variant(
            name="lejepa",
            title="LeJEPA",
            paper="2511.08544",
            modality="image",
            inputs="views",
            **class_names("LeJepa"),
            processor_of="ijepa",
            tiny=TINY_VIEWS | {"proj_size": 16, "sigreg_num_slices": 32},
        ),
        Variant(
            name="rectified_lpjepa",
            title="Rectified LpJEPA",
            paper="2602.01456",
            modality="image",
            inputs="views",
            **class_names("RectifiedLpJepa"),
            processor_of="ijepa",
            tiny=TINY_VIEWS | {"proj_size": 16, "rdmreg_num_projections": 32},
        ),
        Variant(
            name="vicreg",
            title="VICReg",
            paper="2105.04906",
            modality="image",
            inputs="views",
            **class_names("VicReg"),
            processor_of="ijepa",
            tiny=TINY_VIEWS,
        ),
        Variant(
            name="simsiam",
            title="SimSiam",
            paper="2011.10566",
            modality="image",
            inputs="views",
            **class_names("SimSiam"),
            processor_of="ijepa",
            tiny=TINY_VIEWS | {"pred_hidden_size": 16},
        ),
        Variant(
            name="cjepa",
            title="C-JEPA",
            paper="2410.19560",
            modality="image",
            **class_names("CJepa", "ImageClassification"),
            parts={"modeling": ("CJepaProjector",)},
            processor_of="ijepa",
            tiny=TINY_IMAGE | TINY_PREDICTOR,
        ),
        Variant(
            name="salt",
            title="SALT",
            paper="2509.24317",
            modality="video",
            **class_names("Salt", "VideoClassification"),
            parts={"modeling": ("SaltPredictor", "SaltTeacher")},
            processor_of="vjepa2",
            tiny=TINY_VIDEO
            | {
                "teacher_config": TINY_CLIP_ENCODER
                | {"model_type": "salt", "hidden_size": 48, "num_hidden_layers": 1},
            },
        ),
        Variant(
            name="llm_jepa",
            title="LLM-JEPA",
            paper="2509.14252",
            modality="text",
            inputs="text_pairs",
            config="LlmJepaConfig",
            pretraining_model="LlmJepaForCausalLM",
            heads={"AutoModelForCausalLM": "LlmJepaForCausalLM"},
            parts={"modeling": ("LlmJepaOutput",)},
            program="finetune_llm_jepa",
            tiny={"text_config": TINY_LLAMA},
        ),
        Variant(
            name="vl_jepa",
            title="VL-JEPA",
            paper="2512.10942",
            modality="vision_text",
            inputs="vision_text",
            **class_names("VLJepa"),
            parts={
                "predictor": ("VLJepaPredictor",),
                "decoder": ("VLJepaDecoder", "VLJepaForConditionalGeneration"),
                "processing": ("VLJepaProcessor",),
            },
            tiny={
                "vision_config": {
                    "model_type": "vjepa2",
                    "hidden_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "mlp_ratio": 2.0,
                    "crop_size": 32,
                    "patch_size": 16,
                    "frames_per_clip": 4,
                },
                "predictor_config": TINY_LLAMA | {"num_hidden_layers": 3},
                "text_config": {
                    "model_type": "gemma3_text",
                    "vocab_size": 64,
                    "hidden_size": 24,
                    "intermediate_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "head_dim": 16,
                    "sliding_window": 4,  # shorter than the texts of the tests
                    "layer_types": ["sliding_attention", "full_attention"],
                    "use_bidirectional_attention": True,
                },
                "decoder_config": TINY_LLAMA,
                "num_predictor_layers": 2,
                "projection_dim": 16,
                "max_query_length": 16,
                "max_target_length": 16,
                "num_prefix_tokens": 2,
            },
        ),
        Variant(
            name="vjepa2_ac",
            title="V-JEPA 2-AC",
            paper="2506.09985",
            modality="trajectory",
            inputs="trajectory",
            **class_names("VJepa2AC"),
            parts={"predictor": ("VJepa2ACPredictor",), "unroll": ("CameraState",)},
            weights_license="mit",
            processor_of="vjepa2",
            tiny=TINY_VIDEO | {"num_attention_heads": 2},
        ),
        Variant(
            name="eb_jepa",
            title="EB-JEPA",
            paper="2602.03604",
            modality="trajectory",
            inputs="trajectory",
            **class_names("EbJepa"),
            parts={"modeling": ("EbJepaForPreTrainingOutput",)},
            tiny=TINY_ROOMS,
        ),
        Variant(
            name="lewm",
            title="LeWorldModel",
            paper="2603.19312",
            modality="trajectory",
            inputs="trajectory",
            config="LeWorldModelConfig",
            base_model="LeWorldModel",
            pretraining_model="LeWorldModelForPreTraining",
            parts={
                "predictor": ("LeWorldModelPredictor",),
                "trajectory_processing": ("LeWorldModelVideoProcessor",),
            },
            tiny={
                "backbone_config": TINY_VIT,
                "hidden_size": 24,
                "proj_hidden_size": 64,
                "action_dim": 4,
                "frame_skip": 2,
                "frames_per_clip": 4,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
                "pred_head_dim": 8,
                "pred_intermediate_size": 32,
            },
        ),
        Variant(
            name="h_jepa",
            title="H-JEPA",
            paper="2604.03208",
            modality="trajectory",
            inputs="trajectory",
            **class_names("HJepa"),
            parts={"configuration": ("HJepaLevel",), "modeling": ("HJepaForPreTrainingOutput",)},
            tiny={
                "world_model_config": TINY_ROOMS | {"model_type": "eb_jepa"},
                "levels": [{"stride": 2, "macro_action_dim": 3, "macro_hidden_size": 8, "pred_hidden_size": 16}],
                "frames_per_clip": 7,
            },
        ),
    )
}


def find_variant(model_type: str, source: str) -> Variant:
    """The variant that a config's `model_type` belongs to.

    Args:
        model_type: of the config.
        source: where it was read, for the message.

    Raises:
        ValueError: no variant has it.
    """
    known = {variant.config_class().model_type: variant for variant in VARIANTS.values()}
    if model_type not in known:
        raise ValueError(f"{source} is a model of type {model_type!r}, expected one of {', '.join(sorted(known))}")
    return known[model_type]


__all__ = ["VARIANTS", "Variant", "find_variant"]
