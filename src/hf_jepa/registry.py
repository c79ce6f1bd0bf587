"""The one table of variants. Public names, Auto classes, tests, docs and the command line are derived from it."""

from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One member of the family. Everything else follows from the folder `hf_jepa/models/<name>/`.

    Args:
        name: folder name and command-line name.
        title: as written in prose.
        paper: arXiv identifier.
        modality: "image", "video", "audio", "text", "vision_text", "trajectory".
        config: config class, in `configuration_<name>.py`.
        base_model: encoder class, in `modeling_<name>.py`; None where it is a stock model of any type (LLM-JEPA).
        pretraining_model: class with the objective, in `modeling_<name>.py`.
        heads: further model classes, Auto class -> class in `modeling_<name>.py`.
        parts: further public names, module suffix -> names.
        native: True where transformers itself owns the `model_type`, which is then never shadowed.
        convertible: whether official weights exist, for which `convert_<name>.py` has `LAYOUT`, an `OfficialLayout`,
            and `PROBES`, a `ProbeLayout`, where there are official probes too.
        weights_license: licence of converted official weights.
        inputs: what the pretraining model is called with: "masks" (a context mask and a target mask), "views" (several
            of each image), "in_place_masks" (what is hidden is replaced, not left out), "plain" (the samples alone),
            "text_pairs" (two views of a text, laid out in rows), "vision_text" (clips, queries and texts),
            "trajectory" (clips, what was done between their frames, where the agent was).
        tiny: config fields of a model that trains in well under a second, for the behaviour suites; CONTRIBUTING.md
            says what they ask of it.
        program: the module of `hf_jepa.training` whose `finetune` trains it, where its modality has no program for it.
        processor_of: the variant whose processor prepares its inputs too, where it has none in its own folder.
    """

    name: str
    title: str
    paper: str
    modality: str
    config: str
    base_model: str | None = None
    pretraining_model: str
    heads: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    native: bool = False
    convertible: bool = False
    weights_license: str | None = None
    tiny: dict
    inputs: str = "masks"
    processor_of: str | None = None
    program: str | None = None

    def module_name(self, kind: str) -> str:
        """Name of the module `<kind>_<name>` of the variant's folder."""
        return f"hf_jepa.models.{self.name}.{kind}_{self.name}"

    def module(self, kind: str) -> ModuleType:
        """The module `<kind>_<name>` of the variant's folder, e.g. `module("modeling")`."""
        return import_module(self.module_name(kind))

    def public_names(self) -> dict[str, str]:
        """Public name -> module that defines it."""
        kinds = dict(self.parts)
        kinds["configuration"] = (self.config, *kinds.get("configuration", ()))
        modeling = dict.fromkeys((self.base_model, self.pretraining_model, *self.heads.values()))
        modeling.pop(None, None)
        kinds["modeling"] = (*kinds.get("modeling", ()), *modeling)
        return {name: self.module_name(kind) for kind, names in kinds.items() for name in names}

    def config_class(self):
        return getattr(self.module("configuration"), self.config)

    def model_class(self, name: str | None = None):
        """A model class of the variant; the pretraining model unless another is named."""
        return getattr(self.module("modeling"), name or self.pretraining_model)

    @property
    def stock(self) -> bool:
        """Whether stock transformers loads the checkpoints."""
        return self.native or self.base_model is None

    def base_class(self):
        """The class that loads the encoder of a checkpoint."""
        from transformers import AutoModel  # as late as everything heavy

        return AutoModel if self.base_model is None else self.model_class(self.base_model)

    @property
    def layout(self):
        """The `OfficialLayout` of the variant's official checkpoints."""
        return self.module("convert").LAYOUT

    @property
    def probes(self):
        """The `ProbeLayout` of the variant's official probes; None where it has none."""
        return getattr(self.module("convert"), "PROBES", None) if self.convertible else None

    def encoder_of(self, model):
        """The encoder of a base model, which in some variants holds the predictor too."""
        return model.get_submodule(self.encoder_place())

    def encoder_place(self) -> str:
        """Name of the encoder in a base model; empty where it is the base model."""
        model = self.model_class()
        base, _, place = (getattr(model, "target_encoder_name", None) or "").partition(".")  # in the pretraining model
        return place if base == model.base_model_prefix else ""

    @property
    def processor_class(self):
        """The class of its image or video processor; None where it names none."""
        if self.processor_of is not None:
            return VARIANTS[self.processor_of].processor_class
        kind = f"{self.modality}_processing"
        if kind not in self.parts:
            return None
        (name,) = self.parts[kind]
        return getattr(self.module(kind), name)

    def processor(self, config):
        """The image or video processor for the input size of a config.

        Raises:
            ValueError: the variant names none.
        """
        if self.processor_class is None:
            raise ValueError(
                f"{self.title} names no processor: add {self.modality}_processing_{self.name}.py to its parts"
            )
        return self.processor_class.from_config(config)


# The backbone of the tiny multi-view models.
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}
# The language model of the tiny models that have one.
TINY_LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            name="ijepa",
            title="I-JEPA",
            paper="2301.08243",
            modality="image",
            config="IJepaConfig",
            base_model="IJepaModel",
            pretraining_model="IJepaForPreTraining",
            heads={"AutoModelForImageClassification": "IJepaForImageClassification"},
            parts={"modeling": ("IJepaPredictor",), "image_processing": ("IJepaImageProcessor",)},
            native=True,
            convertible=True,
            weights_license="cc-by-nc-4.0",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
            },
        ),
        Variant(
            name="vjepa",
            title="V-JEPA",
            paper="2404.08471",
            modality="video",
            config="VJepaConfig",
            base_model="VJepaModel",
            pretraining_model="VJepaForPreTraining",
            heads={"AutoModelForVideoClassification": "VJepaForVideoClassification"},
            parts={"modeling": ("VJepaPredictor",)},
            convertible=True,
            weights_license="cc-by-nc-4.0",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_ratio": 2.0,
                "crop_size": 32,
                "patch_size": 8,
                "frames_per_clip": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
            },
            processor_of="vjepa2",
        ),
        Variant(
            name="vjepa2",
            title="V-JEPA 2",
            paper="2506.09985",
            modality="video",
            config="VJepa2Config",
            base_model="VJepa2Model",
            pretraining_model="VJepa2ForPreTraining",
            heads={"AutoModelForVideoClassification": "VJepa2ForVideoClassification"},
            parts={
                "modeling": ("VJepa2Encoder", "VJepa2Predictor"),
                "anticipation": ("VJepa2ForActionAnticipation",),
                "video_processing": ("VJepa2VideoProcessor",),
            },
            native=True,
            convertible=True,
            weights_license="mit",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_ratio": 2.0,
                "crop_size": 32,
                "patch_size": 8,
                "frames_per_clip": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
            },
        ),
        Variant(
            name="vjepa2_1",
            title="V-JEPA 2.1",
            paper="2603.14482",
            modality="video",
            config="VJepa21Config",
            base_model="VJepa21Model",
            pretraining_model="VJepa21ForPreTraining",
            heads={"AutoModelForVideoClassification": "VJepa21ForVideoClassification"},
            parts={"modeling": ("VJepa21Encoder", "VJepa21Predictor")},
            convertible=True,
            weights_license="mit",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_ratio": 2.0,
                "crop_size": 32,
                "patch_size": 8,
                "frames_per_clip": 4,
                "levels": [0, 1],
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
            },
            processor_of="vjepa2",
        ),
        Variant(
            name="data2vec_vision",
            title="data2vec (images)",
            paper="2202.03555",
            modality="image",
            config="Data2VecVisionConfig",
            base_model="Data2VecVisionModel",
            pretraining_model="Data2VecVisionForPreTraining",
            native=True,
            convertible=True,
            weights_license="mit",
            inputs="in_place_masks",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 4,
                "top_k_layers": 2,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="data2vec_audio",
            title="data2vec (speech)",
            paper="2202.03555",
            modality="audio",
            config="Data2VecAudioConfig",
            base_model="Data2VecAudioModel",
            pretraining_model="Data2VecAudioForPreTraining",
            native=True,
            inputs="in_place_masks",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
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
            config="Data2VecTextConfig",
            base_model="Data2VecTextModel",
            pretraining_model="Data2VecTextForPreTraining",
            native=True,
            inputs="in_place_masks",
            tiny={
                "vocab_size": 64,
                "mask_token_id": 63,
                "max_position_embeddings": 66,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "top_k_layers": 2,
            },
        ),
        Variant(
            name="nepa",
            title="NEPA",
            paper="2512.16922",
            modality="image",
            config="NepaConfig",
            base_model="NepaModel",
            pretraining_model="NepaForPreTraining",
            heads={"AutoModelForImageClassification": "NepaForImageClassification"},
            parts={"image_processing": ("NepaImageProcessor",)},
            convertible=True,
            weights_license="apache-2.0",
            inputs="plain",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 4,
                "qk_norm": True,
                "pos_embed_rescale": None,
            },
        ),
        Variant(
            name="lejepa",
            title="LeJEPA",
            paper="2511.08544",
            modality="image",
            config="LeJepaConfig",
            base_model="LeJepaModel",
            pretraining_model="LeJepaForPreTraining",
            inputs="views",
            tiny={
                "backbone_config": TINY_VIT,
                "proj_hidden_size": 64,
                "proj_size": 16,
                "sigreg_num_slices": 32,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="rectified_lpjepa",
            title="Rectified LpJEPA",
            paper="2602.01456",
            modality="image",
            config="RectifiedLpJepaConfig",
            base_model="RectifiedLpJepaModel",
            pretraining_model="RectifiedLpJepaForPreTraining",
            inputs="views",
            tiny={
                "backbone_config": TINY_VIT,
                "proj_hidden_size": 64,
                "proj_size": 16,
                "rdmreg_num_projections": 32,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="vicreg",
            title="VICReg",
            paper="2105.04906",
            modality="image",
            config="VicRegConfig",
            base_model="VicRegModel",
            pretraining_model="VicRegForPreTraining",
            inputs="views",
            tiny={
                "backbone_config": TINY_VIT,
                "proj_hidden_size": 64,
                "proj_size": 32,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="simsiam",
            title="SimSiam",
            paper="2011.10566",
            modality="image",
            config="SimSiamConfig",
            base_model="SimSiamModel",
            pretraining_model="SimSiamForPreTraining",
            inputs="views",
            tiny={
                "backbone_config": TINY_VIT,
                "proj_hidden_size": 64,
                "proj_size": 32,
                "pred_hidden_size": 16,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="cjepa",
            title="C-JEPA",
            paper="2410.19560",
            modality="image",
            config="CJepaConfig",
            base_model="CJepaModel",
            pretraining_model="CJepaForPreTraining",
            heads={"AutoModelForImageClassification": "CJepaForImageClassification"},
            parts={"modeling": ("CJepaProjector",)},
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
            },
            processor_of="ijepa",
        ),
        Variant(
            name="salt",
            title="SALT",
            paper="2509.24317",
            modality="video",
            config="SaltConfig",
            base_model="SaltModel",
            pretraining_model="SaltForPreTraining",
            heads={"AutoModelForVideoClassification": "SaltForVideoClassification"},
            parts={"modeling": ("SaltPredictor", "SaltTeacher")},
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_ratio": 2.0,
                "crop_size": 32,
                "patch_size": 8,
                "frames_per_clip": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
                "teacher_config": {
                    "model_type": "salt",
                    "hidden_size": 48,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 4,
                    "mlp_ratio": 2.0,
                    "crop_size": 32,
                    "patch_size": 8,
                    "frames_per_clip": 4,
                },
            },
            processor_of="vjepa2",
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
            tiny={
                "text_config": TINY_LLAMA,
            },
        ),
        Variant(
            name="vl_jepa",
            title="VL-JEPA",
            paper="2512.10942",
            modality="vision_text",
            inputs="vision_text",
            config="VLJepaConfig",
            base_model="VLJepaModel",
            pretraining_model="VLJepaForPreTraining",
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
            config="VJepa2ACConfig",
            base_model="VJepa2ACModel",
            pretraining_model="VJepa2ACForPreTraining",
            parts={"predictor": ("VJepa2ACPredictor",), "unroll": ("CameraState",)},
            convertible=True,
            weights_license="mit",
            tiny={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "mlp_ratio": 2.0,
                "crop_size": 32,
                "patch_size": 8,
                "frames_per_clip": 4,
                "pred_hidden_size": 24,
                "pred_num_hidden_layers": 2,
                "pred_num_attention_heads": 2,
            },
            processor_of="vjepa2",
        ),
        Variant(
            name="eb_jepa",
            title="EB-JEPA",
            paper="2602.03604",
            modality="trajectory",
            inputs="trajectory",
            config="EbJepaConfig",
            base_model="EbJepaModel",
            pretraining_model="EbJepaForPreTraining",
            parts={"modeling": ("EbJepaForPreTrainingOutput",)},
            tiny={
                "image_size": 17,
                "frames_per_clip": 6,
                "hidden_size": 12,
                "encoder_hidden_sizes": [4, 6, 8],
                "num_unroll_steps": 4,
                "inverse_dynamics_hidden_size": 10,
            },
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
            convertible=True,
            weights_license=None,
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
            config="HJepaConfig",
            base_model="HJepaModel",
            pretraining_model="HJepaForPreTraining",
            parts={"configuration": ("HJepaLevel",), "modeling": ("HJepaForPreTrainingOutput",)},
            tiny={
                "world_model_config": {
                    "model_type": "eb_jepa",
                    "image_size": 17,
                    "frames_per_clip": 6,
                    "hidden_size": 12,
                    "encoder_hidden_sizes": [4, 6, 8],
                    "num_unroll_steps": 4,
                    "inverse_dynamics_hidden_size": 10,
                },
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
