"""The program behind the VL-JEPA scripts: recipe and pairs of videos and texts in, trained checkpoint out.

Both stages are this program: stage 1 trains without queries (`use_queries: false`), fine-tuning with them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.data.pair_tokenizer import train_pair_tokenizer
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining
from hf_jepa.models.vl_jepa.parts_vl_jepa import load_vision_model
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor
from hf_jepa.training.fresh_language_model import fresh_text_config
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.run_cards import LicenseArguments
from hf_jepa.training.vision_language import VLJepaTrainer
from hf_jepa.training.vision_language_arguments import VLJepaTrainingArguments
from hf_jepa.training.vision_text_data import VisionTextArguments


logger = logging.get_logger(__name__)

PARTS = ("vision", "init_predictor_from", "text")
FIXED = ("vision_config", "predictor_config", "text_config", "decoder_config", "num_predictor_layers")
FIXED += ("source_num_layers", "layer_slice", "projection_dim", "project_text")


@dataclass(kw_only=True)
class VLJepaModelArguments(LicenseArguments):
    """The model of a run: a checkpoint to continue, trained parts to begin with, or a fresh one."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "VL-JEPA to continue from."})
    vision: str | None = field(
        default=None,
        metadata={"help": "Video or image encoder; beside a checkpoint that was saved without its own, that one."},
    )
    init_predictor_from: str | None = field(
        default=None, metadata={"help": "Language model whose last layers predict."}
    )
    text: str | None = field(default=None, metadata={"help": "Text encoder."})
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of VLJepaConfig (JSON); of a checkpoint, those that change."}
    )
    query_tokenizer: str | None = field(default=None, metadata={"help": "That of the language model unless given."})
    target_tokenizer: str | None = field(default=None, metadata={"help": "That of the text encoder unless given."})
    tokenizer_size: int = field(default=512, metadata={"help": "Tokens of a tokenizer that is trained on the data."})

    def __post_init__(self):
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)
        self.model_config = self.model_config or {}
        parts = [name for name in PARTS if getattr(self, name)]
        if self.model_name_or_path:
            others = [*PARTS[1:], "query_tokenizer", "target_tokenizer"]
            if wrong := [name for name in others if getattr(self, name)]:
                raise ValueError(f"{self.model_name_or_path} brings its own parts: leave out {wrong[0]}")
            if fixed := [name for name in self.model_config if name in FIXED]:
                raise ValueError(f"model_config: {fixed[0]} is decided by the weights of {self.model_name_or_path}")
        elif parts and len(parts) < len(PARTS):
            lacking = ", ".join(name for name in PARTS if name not in parts)
            raise ValueError(f"{', '.join(parts)} {'is' if len(parts) == 1 else 'are'} given, but not {lacking}")

    def build(
        self, texts: Iterable[str], video_fields: dict[str, Any] | None = None
    ) -> tuple[VLJepaForPreTraining, VLJepaProcessor]:
        """The model in float32, and what prepares its inputs.

        Args:
            texts: of the data, read only where a tokenizer is trained on them.
            video_fields: of a new processor.

        Raises:
            ValueError: an unknown field, or a checkpoint that lacks weights.
        """
        require_model_fields(VLJepaConfig, self.model_config)
        if self.model_name_or_path:
            return self._continued(), VLJepaProcessor.from_pretrained(self.model_name_or_path)
        if self.vision:
            model = VLJepaForPreTraining.from_parts(
                self.vision, self.init_predictor_from, self.text, **self.model_config
            )
            query, target = (
                AutoTokenizer.from_pretrained(named or part)
                for named, part in (
                    (self.query_tokenizer, self.init_predictor_from),
                    (self.target_tokenizer, self.text),
                )
            )
        else:
            query, target = self._own_tokenizers(texts)
            fields = dict(self.model_config)
            for name, tokenizer in (("predictor_config", query), ("text_config", target)):
                if not isinstance(fields.get(name), dict):
                    raise ValueError(
                        f"model_config: a fresh model needs {name} with its model_type and sizes; or say "
                        f"{', '.join(PARTS)}, of which it is made"
                    )
                fields[name] = fresh_text_config(fields[name], tokenizer, f"model_config: {name}")
            model = VLJepaForPreTraining(VLJepaConfig(**fields))
        return model, VLJepaProcessor.from_config(model.config, query, target, **(video_fields or {}))

    def _own_tokenizers(self, texts: Iterable[str]) -> list[PreTrainedTokenizerBase]:
        """Those that are named, and one that is trained for the others."""
        named = (self.query_tokenizer, self.target_tokenizer)
        trained = None if all(named) else train_pair_tokenizer(texts, self.tokenizer_size)
        return [AutoTokenizer.from_pretrained(name) if name else trained for name in named]

    def _continued(self) -> VLJepaForPreTraining:
        """The checkpoint, with other values of fields that its weights do not depend on."""
        start = self.model_name_or_path
        if changed := ", ".join(f"{name} {value}" for name, value in self.model_config.items()):
            logger.warning(f"{start} is continued with {changed}")
        if not self.vision:
            return VLJepaForPreTraining.from_pretrained(start, dtype="float32", **self.model_config)
        model, info = VLJepaForPreTraining.from_pretrained(
            start, dtype="float32", output_loading_info=True, **self.model_config
        )
        prefix = f"{model.base_model_prefix}.vision_model."
        if others := sorted(name for name in info["missing_keys"] if not name.startswith(prefix)):
            raise ValueError(f"{start} lacks {len(others)} weights beside its vision encoder, such as {others[0]}")
        if not info["missing_keys"]:
            raise ValueError(f"{start} has a vision encoder of its own: leave out vision={self.vision}")
        encoder = load_vision_model(self.vision, {"dtype": "float32"})
        model.base_model.vision_model.load_state_dict(encoder.state_dict())  # raises where it is another encoder
        return model


def pretrain(argv: Sequence[str], description: str | None = None, prog: str | None = None) -> VLJepaTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `VLJepaModelArguments`, `VisionTextArguments` and
            `VLJepaTrainingArguments`.
        description, prog: for `--help`.

    Returns:
        the trainer, after training and saving.

    Raises:
        ValueError: as the parts do.
    """
    types = (VLJepaModelArguments, VisionTextArguments, VLJepaTrainingArguments)
    arguments, data, training = parse_recipe(types, argv, description, prog)
    begin(training)
    card = data.data_card() | arguments.model_card()  # whose errors come before the training
    test = data.open_eval(training.seed)
    with whole_models(training):
        model, processor = arguments.build(data.texts(), data.video_fields())
    if data.cache_vision_tokens:
        train = data.cached(model, processor, training)
    else:
        train = data.open(training.seed, training.per_device_train_batch_size * training.world_size)
    trainer = VLJepaTrainer(
        model,
        training,
        train_dataset=train,
        eval_dataset=test,
        data_collator=data.collator(processor),
        processing_class=processor,
    )
    run_training(trainer, given_fields(types, argv))
    if test is not None:
        trainer.evaluate()
    finish(trainer, card)
    return trainer


__all__ = ["VLJepaModelArguments", "pretrain"]
