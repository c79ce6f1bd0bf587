"""From a recipe to what its memory depends on: a model without weights, and batches of the sizes that it would see."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, Trainer, TrainingArguments
from transformers.initialization import no_init_weights

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.core.regularization import takes_step
from hf_jepa.data.text_layouts import IGNORED, LlmJepaDataCollator
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.data.transforms import height_width
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.registry import VARIANTS, Variant, find_variant
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.batches import draw_masks, flat_masks
from hf_jepa.training.finetune_image import ClassificationArguments
from hf_jepa.training.finetune_llm_jepa import LanguageModelArguments, ObjectiveArguments, TextPairArguments
from hf_jepa.training.finetune_video import VideoClassificationArguments
from hf_jepa.training.finetuning import FineTuningArguments
from hf_jepa.training.llm_jepa import LlmJepaTrainingArguments, add_adapters
from hf_jepa.training.optimizer import layerwise_groups
from hf_jepa.training.pretrain_image import recipe_sections
from hf_jepa.training.pretrain_video import VideoMaskArguments, VideoPretrainingArguments, token_grids
from hf_jepa.training.recipe import parse_recipe


STEPS = 16  # among which the masks with most tokens are taken
CLASSES = 1000  # of a classifier, whose data are not looked at


@dataclass
class Job:
    """What a run would do in each of its steps.

    Args:
        name: what is shown.
        model: called with a device, makes a model in training mode; on "meta" without weights.
        inputs: called with a model and the number of samples, gives the arguments of its forward; only shapes matter.
        optimizer: called with a model.
        training: batch size, precision, checkpointing, accumulated batches.
        fewest: samples that a batch must have.
    """

    name: str
    model: Callable[[str], nn.Module]
    inputs: Callable[[nn.Module, int], dict[str, Any]]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    training: TrainingArguments
    fewest: int = 1


def read_job(source: str, overrides: Sequence[str] = (), variant: str | None = None) -> Job:
    """What a recipe asks for; nothing is read but the recipe and, where it names one, the config of a checkpoint.

    Args:
        source: a recipe, or the name of a variant, whose defaults are taken.
        overrides: `--field value ...` of the recipe.
        variant: of the recipe, unless its folder is named so.

    Raises:
        ValueError: no such variant, a recipe of unknown variant, a checkpoint that is not on this machine.

    Example:
        >>> job = read_job("ijepa", ["--model_size", "vit_base"])
        >>> job.name, job.training.per_device_train_batch_size
        ('ijepa vit_base', 8)
    """
    recipe = Path(source)
    is_recipe = recipe.suffix in (".yaml", ".yml")
    name = variant or (recipe.absolute().parent.name if is_recipe else source)
    if name not in VARIANTS:
        hint = "say its variant by --variant" if is_recipe else "name a recipe (.yaml) or a variant"
        raise ValueError(f"{source!r} is of no known variant: {hint}, one of {', '.join(VARIANTS)}")
    given = {option[2:].partition("=")[0] for option in overrides if option.startswith("--")}
    if is_recipe and recipe.is_file():
        given |= set(yaml.safe_load(recipe.read_text(encoding="utf-8")) or ())
    chosen, types, read = _program(VARIANTS[name], given)
    argv = [*([source] if is_recipe else ()), "--use_cpu", "true", *overrides]
    # What a recipe may leave to the command line, and no size depends on.
    needed = {"output_dir": "runs/estimate", "dataset": "regex" if name == "llm_jepa" else "embedded"}
    argv += [word for field, value in needed.items() if field not in given for word in (f"--{field}", value)]
    job = read(chosen, *parse_recipe(types, argv, prog="hf-jepa estimate"))
    job.name += f" ({recipe.name})" if is_recipe else ""
    return job


def _program(variant: Variant, given: set[str]) -> tuple[Variant, tuple[type, ...], Callable[..., Job]]:
    """The sections of the recipe, and who reads them."""
    if "mode" in given or "layer_decay" in given:
        if "num_pooler_layers" in given or "anchor" in given:
            raise ValueError("recipes of action anticipation cannot be estimated")
        kind = ClassificationArguments if variant.modality == "image" else VideoClassificationArguments
        return variant, (kind, FineTuningArguments), _classification
    if variant.inputs == "text_pairs":
        types = (LanguageModelArguments, ObjectiveArguments, TextPairArguments, LlmJepaTrainingArguments)
        return variant, types, _language_model
    if variant.modality == "image":
        return variant, recipe_sections(variant), _images
    if variant.modality == "video":
        return variant, (VideoPretrainingArguments, VideoMaskArguments, JepaTrainingArguments), _videos
    raise ValueError(f"recipes of {variant.title} cannot be estimated: only those of images, videos and text pairs")


# --- pretraining ------------------------------------------------------------------------------------------------


def _images(variant: Variant, arguments: Any, hidden: Any, training: TrainingArguments) -> Job:
    config = _config(variant, arguments)
    size, channels = height_width(config.image_size), config.num_channels

    def inputs(model: nn.Module, samples: int) -> dict[str, Any]:
        if variant.inputs == "views":
            groups = [(hidden.num_global_views, size)]
            if hidden.num_local_views:
                groups.append((hidden.num_local_views, height_width(hidden.local_size)))
            batch: dict[str, Any] = {"pixel_values": [_pixels(samples, n, channels, *hw) for n, hw in groups]}
        else:
            batch = {"pixel_values": _pixels(samples, channels, *size)}
            sampler = hidden.sampler(config.grid_size, training.seed)
            if sampler is not None:
                batch |= _largest_masks(partial(draw_masks, sampler, torch.arange(samples), [config.grid_size]))
        return batch | ({"step": 0} if takes_step(model) else {})

    return _pretraining(variant, config, inputs, arguments, training)


def _videos(variant: Variant, arguments: Any, masks: VideoMaskArguments, training: TrainingArguments) -> Job:
    config = _config(variant, arguments)
    sizes = arguments.clip_sizes(config)

    def inputs(model: nn.Module, samples: int) -> dict[str, Any]:
        grids = token_grids(model, sizes)
        counts = _shares(arguments.sources().values(), config, [frames for frames, *_ in sizes], samples)
        groups = [(count, *size) for count, size in zip(counts, sizes, strict=True) if count]
        clips = [_pixels(n, frames, config.in_chans, h, w) for n, frames, h, w in groups]
        indices = [torch.arange(n) for n, *_ in groups]
        sampler, used = masks.sampler(grids, training.seed), [grids[frames] for _, frames, *_ in groups]
        single = len(sizes) == 1
        drawn = partial(draw_masks, sampler, indices[0] if single else indices, used)
        batch = {"pixel_values_videos": clips[0] if single else clips} | _largest_masks(drawn)
        return batch | ({"step": 0} if takes_step(model) else {})

    return _pretraining(variant, config, inputs, arguments, training)


def _shares(sources: Any, config: PreTrainedConfig, frames: Sequence[int], samples: int) -> list[int]:
    """Of a batch, the clips of each length: as many as the weights of the sources let expect, rounded."""
    weights = dict.fromkeys(frames, 0.0)
    for source in sources:
        weights[source.clip_size(config)[0]] += source.weight
    total = sum(weights.values())
    ends = [round(samples * sum(list(weights.values())[: i + 1]) / total) for i in range(len(frames))]
    return [end - start for start, end in pairwise([0, *ends])]


def _pretraining(
    variant: Variant, config: PreTrainedConfig, inputs: Callable, arguments: Any, training: TrainingArguments
) -> Job:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        settings = (training.learning_rate, training.weight_decay, (training.adam_beta1, training.adam_beta2))
        return training.build_optimizer(model, *settings, training.adam_epsilon)

    size = arguments.model_size or arguments.model_name_or_path or ""
    model = partial(_make, partial(variant.model_class(), config), training)
    return Job(
        f"{variant.name} {size}".strip(), model, inputs, optimizer, training, variant.model_class().fewest_samples
    )


def _config(variant: Variant, arguments: Any) -> PreTrainedConfig:
    """The config that `build_model` would give the model."""
    config_class, fields = variant.config_class(), arguments.model_config or {}
    require_model_fields(config_class, fields)
    if arguments.model_name_or_path and not arguments.model_size:
        found = _local(config_class, arguments.model_name_or_path)
        return config_class.from_dict(found.to_dict() | fields)
    arguments.model_name_or_path = None
    config = config_class.from_size(arguments.model_size, **fields) if arguments.model_size else config_class(**fields)
    if arguments.teacher_name_or_path:
        config.teacher_config = _local(AutoConfig, arguments.teacher_name_or_path)
    return config


def _largest_masks(draw: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Of the masks of several steps those with most tokens: their lengths vary from step to step."""
    drawn = [draw(step, 0) for step in range(STEPS)]
    if "bool_masked_pos" in drawn[0]:
        return max(drawn, key=lambda masks: int(masks["bool_masked_pos"].sum()))
    return max(drawn, key=lambda masks: sum(m.numel() for kind in masks.values() for m in flat_masks(kind)))


# --- fine-tuning ------------------------------------------------------------------------------------------------


def _classification(variant: Variant, arguments: Any, training: TrainingArguments) -> Job:
    config = _local(AutoConfig, arguments.model_name_or_path)
    variant = find_variant(config.model_type, arguments.model_name_or_path)
    config = variant.config_class().from_dict(config.to_dict() | {"num_labels": CLASSES})
    head = f"AutoModelFor{variant.modality.capitalize()}Classification"
    if head not in variant.heads:
        raise ValueError(f"{variant.title} has no classifier")
    if getattr(arguments, "classifier_layers", None):
        config.classifier_layers = arguments.classifier_layers

    def make() -> nn.Module:
        model = variant.model_class(variant.heads[head])(config)
        return arguments.prepare(model)

    def inputs(model: nn.Module, samples: int) -> dict[str, Any]:
        labels = {"labels": torch.zeros(samples, dtype=torch.long)}
        if variant.modality == "image":
            return {"pixel_values": _pixels(samples, config.num_channels, *height_width(config.image_size))} | labels
        frames = arguments.frames_per_clip or config.frames_per_clip
        segments = [arguments.num_segments] if arguments.num_segments > 1 else []
        size = (samples, *segments, frames, config.in_chans, *height_width(config.crop_size))
        return {"pixel_values_videos": _pixels(*size)} | labels

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        groups = layerwise_groups(model, training.learning_rate, training.weight_decay, training.layer_decay)
        return _optimizer(groups, model, training)

    return Job(f"{variant.name} {arguments.mode}", partial(_make, make, training), inputs, optimizer, training)


def _language_model(
    variant: Variant, language_model: Any, objective: Any, data: Any, training: TrainingArguments
) -> Job:
    attention = {"attn_implementation": language_model.attn_implementation or "sdpa"}
    if language_model.model_name_or_path is not None:
        config = _local(LlmJepaConfig, language_model.model_name_or_path, **objective.given(), **attention)
        name = language_model.model_name_or_path
    else:
        fields = language_model.model_config
        vocabulary = fields.get("vocab_size") or _vocabulary(language_model)
        text_config = AutoConfig.for_model(**fields | {"vocab_size": vocabulary})
        config = LlmJepaConfig(text_config=text_config, **attention, **objective.given())
        name = text_config.model_type
    if language_model.dtype != "auto":
        config.text_config.dtype = getattr(torch, language_model.dtype)

    def make() -> nn.Module:
        model = variant.model_class()(config)
        model._tried = model._settings  # `check_layout` compares values
        if language_model.lora_rank:
            adapters = (language_model.lora_rank, language_model.lora_alpha, language_model.lora_dropout)
            add_adapters(model, list(range(config.num_predictor_tokens)), *adapters)
        return model

    collator = LlmJepaDataCollator(
        0, config.layout, data.packing, pad_to_multiple_of=data.pad_to_multiple_of, views=config.jepa_weight > 0
    )
    return Job(
        f"{variant.name} {name}",
        partial(_make, make, training),
        lambda model, samples: collator([_longest_pair(data.max_length, config.num_predictor_tokens)] * samples),
        lambda model: _optimizer([p for p in model.parameters() if p.requires_grad], model, training),
        training,
        fewest=2 if config.distance == "infonce" else 1,
    )


def _vocabulary(language_model: Any) -> int:
    if language_model.tokenizer_name_or_path is None:
        return language_model.tokenizer_size
    return len(_local(AutoTokenizer, language_model.tokenizer_name_or_path))


def _longest_pair(length: int, predictor_tokens: int) -> TextPair:
    """A pair whose conversation is as long as a row may be, half of it Text and half Code."""
    half = length // 2
    text = [1] * half + [1] * predictor_tokens
    labels = [IGNORED] * half + [1] * (length - half)
    return TextPair(
        [1] * length, labels, text, len(text) - 1, [1] * (length - half), length - half - 1, half - 1,
        (1,) * predictor_tokens,
    )  # fmt: skip


# --- common -----------------------------------------------------------------------------------------------------


def _local(loader: Any, source: str, **options: Any) -> Any:
    """What `from_pretrained` finds on this machine."""
    try:
        return loader.from_pretrained(source, local_files_only=True, **options)
    except OSError as error:
        raise ValueError(
            f"{source} is neither a folder here nor in the cache of the Hub: name a local folder with its config "
            "(--model_name_or_path, --tokenizer_name_or_path), or estimate a fresh model (--size, or --model_config "
            "with vocab_size)"
        ) from error


def _make(make: Callable[[], nn.Module], training: TrainingArguments, device: str) -> nn.Module:
    with torch.device(device), no_init_weights() if device == "meta" else nullcontext():
        model = make().train()
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(training.gradient_checkpointing_kwargs)
    return model


def _optimizer(parameters: Any, model: nn.Module, training: TrainingArguments) -> torch.optim.Optimizer:
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
    return optimizer_class(parameters, **options)


def _pixels(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


__all__ = ["Job", "read_job"]
