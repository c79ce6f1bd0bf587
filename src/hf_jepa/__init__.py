"""Joint-Embedding Predictive Architectures as ordinary Hugging Face models.

Importing the package is cheap: public names are loaded on first use, and the Auto classes of transformers learn about
the variants when they themselves are first imported.
"""

from importlib import import_module

from hf_jepa.auto import register_when_needed
from hf_jepa.registry import VARIANTS


__version__ = "0.1.0"

# Public names that do not belong to one variant, by defining module.
_SHARED = {
    "hf_jepa.core.configuration": ("JepaConfigMixin",),
    "hf_jepa.core.modeling": ("JepaPreTrainedModel", "JepaPreTrainingMixin"),
    "hf_jepa.core.outputs": ("JepaForPreTrainingOutput", "WorldModelOutput"),
    "hf_jepa.core.regularization": ("SigRegConfigMixin",),
    "hf_jepa.data.digit_stories": ("DigitStories", "digit_stream"),
    "hf_jepa.data.example_videos": ("example_video",),
    "hf_jepa.data.images": ("ImageCollator", "ImageDataset", "IterableImageDataset"),
    "hf_jepa.data.moving_digits": ("MovingDigits",),
    "hf_jepa.data.pair_tokenizer": ("train_pair_tokenizer",),
    "hf_jepa.data.regex_pairs": ("regex_pairs", "regex_paraphrases"),
    "hf_jepa.data.sources": ("load_images",),
    "hf_jepa.data.text_layouts": ("LlmJepaDataCollator", "lay_out"),
    "hf_jepa.data.text_pairs": ("LlmJepaPreprocessor", "TextPair"),
    "hf_jepa.data.text_sources": ("TextPairDataset", "open_text_pairs"),
    "hf_jepa.data.text_tokens": ("add_predictor_tokens",),
    "hf_jepa.data.trajectories": ("TrajectoryCollator", "TrajectoryDataset", "TrajectoryWindow"),
    "hf_jepa.data.trajectory_droid": ("DroidRecordings",),
    "hf_jepa.data.trajectory_droid_writer": ("write_droid_trajectory",),
    "hf_jepa.data.trajectory_sources": ("load_trajectories",),
    "hf_jepa.data.transforms": ("evaluation_transform", "pretraining_transform"),
    "hf_jepa.data.video_readers": ("VideoError", "VideoReader", "open_video"),
    "hf_jepa.data.video_sampling": ("ClipSampling", "anticipation_indices", "clip_indices"),
    "hf_jepa.data.video_sources": ("load_videos",),
    "hf_jepa.data.video_transforms": ("clip_evaluation_transform", "clip_pretraining_transform"),
    "hf_jepa.data.videos": ("VideoCollator", "VideoDataset"),
    "hf_jepa.data.view_augmentation": ("ViewAugmentation",),
    "hf_jepa.data.views": ("EmbeddedViews", "MultiCrop", "ViewCollator"),
    "hf_jepa.data.vision_text": (
        "IterableVisionTextDataset",
        "VLJepaDataCollator",
        "VisionTextDataset",
        "VisionTextReader",
    ),
    "hf_jepa.data.vision_text_mixture": ("MixedVisionText", "vision_text_sampler"),
    "hf_jepa.data.vision_text_sources": ("load_vision_text",),
    "hf_jepa.data.weighted_sources": ("WeightedSources",),
    "hf_jepa.evaluation.decode_savings": ("annotation_score", "compare_with_uniform", "decode_curves"),
    "hf_jepa.evaluation.embedding_geometry": ("embedding_geometry", "pair_embeddings"),
    "hf_jepa.evaluation.features": ("add_features_column", "extract_features"),
    "hf_jepa.evaluation.knn": ("knn_classify",),
    "hf_jepa.evaluation.linear": ("linear_probe",),
    "hf_jepa.evaluation.low_shot": ("low_shot_indices",),
    "hf_jepa.evaluation.metrics": ("alpha_req", "effective_rank", "lidar", "participation_ratio", "rankme"),
    "hf_jepa.evaluation.recall": ("ClassMeanRecall", "class_mean_recall"),
    "hf_jepa.evaluation.retrieval": ("retrieval_recalls", "vqa_accuracy"),
    "hf_jepa.evaluation.ridge": ("ridge_probe",),
    "hf_jepa.evaluation.segments": ("WardTree", "uniform_segments", "ward_segments"),
    "hf_jepa.evaluation.selective_decoding": (
        "StreamMonitor",
        "nearest_decode",
        "online_decode_indices",
        "window_variance",
    ),
    "hf_jepa.evaluation.surprise": ("surprise_curves",),
    "hf_jepa.evaluation.text_generation": ("choose_letters", "generate_answers"),
    "hf_jepa.evaluation.text_scoring": ("score_texts",),
    "hf_jepa.evaluation.vision_language": ("VisionLanguageTasks",),
    "hf_jepa.layers.attentive_pooler": ("AttentivePooler",),
    "hf_jepa.layers.onednn": ("use_onednn",),
    "hf_jepa.layers.views": ("join_clips", "view_loss", "view_probabilities"),
    "hf_jepa.losses.focal": ("sigmoid_focal_loss",),
    "hf_jepa.losses.infonce": ("infonce",),
    "hf_jepa.losses.invariance": ("invariance_loss",),
    "hf_jepa.losses.layer_targets": ("data2vec_loss", "feature_spread", "layer_targets"),
    "hf_jepa.losses.pair_distance": ("pair_distance",),
    "hf_jepa.losses.prediction": ("normalize_targets", "prediction_loss"),
    "hf_jepa.losses.rdmreg": ("rdmreg",),
    "hf_jepa.losses.rectified_gaussian": ("RectifiedGeneralizedGaussian",),
    "hf_jepa.losses.sigreg": ("dense_sigreg", "sigreg"),
    "hf_jepa.losses.vicreg": ("vicreg_loss",),
    "hf_jepa.masking.beit_blocks": ("BeitBlockMaskSampler", "OfficialBeitBlockMaskSampler"),
    "hf_jepa.masking.block_mask": ("BlockMask",),
    "hf_jepa.masking.build": ("build_mask_sampler", "build_video_mask_sampler"),
    "hf_jepa.masking.masks": ("Masks",),
    "hf_jepa.masking.multi_sequence": ("MultiSequenceMaskSampler",),
    "hf_jepa.masking.multiblock": ("MultiBlockMaskSampler",),
    "hf_jepa.masking.multiblock3d": ("MultiBlock3dMaskSampler",),
    "hf_jepa.masking.multiblock3d_official": ("OfficialMultiBlock3dMaskSampler",),
    "hf_jepa.masking.multiblock_official": ("OfficialMultiBlockMaskSampler",),
    "hf_jepa.masking.random_tube": ("OfficialRandomTubeMaskSampler", "RandomTubeMaskSampler"),
    "hf_jepa.masking.spans": ("SpanMaskSampler",),
    "hf_jepa.training.adapters": ("adapt_context_encoder",),
    "hf_jepa.training.arguments": ("JepaTrainingArguments",),
    "hf_jepa.training.collapse": ("CollapseMonitor", "collapse_signals"),
    "hf_jepa.training.finetuning": ("FineTuningArguments", "ClassificationTrainer"),
    "hf_jepa.training.knn_probe": ("OnlineKnnProbe",),
    "hf_jepa.training.llm_jepa": ("LlmJepaTrainer", "LlmJepaTrainingArguments", "add_adapters"),
    "hf_jepa.training.recipe": ("parse_recipe",),
    "hf_jepa.training.schedules": (
        "context_loss_weight_at",
        "learning_rate_at",
        "momentum_at",
        "weight_decay_at",
    ),
    "hf_jepa.training.trainer": ("JepaTrainer",),
    "hf_jepa.training.trajectory": ("TrajectoryTrainer", "TrajectoryTrainingArguments"),
    "hf_jepa.visualization.embedding_geometry": ("draw_embedding_geometry",),
    "hf_jepa.visualization.masks": ("draw_masks",),
    "hf_jepa.visualization.streams": ("draw_stream",),
    "hf_jepa.visualization.video_masks": ("draw_video_masks",),
    "hf_jepa.visualization.views": ("draw_views",),
}
_MODULE_OF = {name: module for module, names in _SHARED.items() for name in names}
for _variant in VARIANTS.values():
    _MODULE_OF |= _variant.public_names()


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_jepa' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register_when_needed()

__all__ = ["VARIANTS", "__version__", *sorted(_MODULE_OF)]
