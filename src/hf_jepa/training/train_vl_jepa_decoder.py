"""The program that adds a decoder to a trained VL-JEPA: texts in, a model that writes captions and answers out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.pair_tokenizer import train_pair_tokenizer
from hf_jepa.evaluation.retrieval import vqa_accuracy
from hf_jepa.evaluation.vision_language import VisionLanguageTasks
from hf_jepa.models.vl_jepa.decoder_vl_jepa import VLJepaForConditionalGeneration
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor
from hf_jepa.training.checkpoints import require_same_model
from hf_jepa.training.fresh_language_model import fresh_text_config
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.reports import first_and_last, format_table, last_logged
from hf_jepa.training.run import RunArguments, RunTrainer
from hf_jepa.training.run_cards import LicenseArguments, trained_of_all
from hf_jepa.training.unaligned import unaligned
from hf_jepa.training.vision_text_data import Targets, VisionTextArguments


logger = logging.get_logger(__name__)

WRITTEN = 256  # evaluation texts that are written again


@dataclass
class VLJepaDecoderTrainingArguments(RunArguments):
    """`TrainingArguments` of the decoder. The paper says nothing of its training, so these defaults are ours.

    Example:
        >>> VLJepaDecoderTrainingArguments(output_dir="runs/example", use_cpu=True).learning_rate
        0.0001
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "As in transformers."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of all but biases and norms."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping; 0 is none."})


@dataclass(kw_only=True)
class DecoderArguments(LicenseArguments):
    """The VL-JEPA that gets a decoder, and the language model that becomes it."""

    model_name_or_path: str = field(metadata={"help": "Trained VL-JEPA, with its processor."})
    decoder: str | None = field(default=None, metadata={"help": "Causal language model, a small one will do."})
    decoder_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of a fresh one (JSON) with its model_type."}
    )
    decoder_tokenizer: str | None = field(
        default=None, metadata={"help": "That of the decoder unless given; for a fresh one, else one is trained."}
    )
    tokenizer_size: int = field(default=512, metadata={"help": "Tokens of a tokenizer that is trained on the data."})
    num_prefix_tokens: int | None = field(default=None, metadata={"help": "Positions that the embedding becomes."})
    prefix_noise: float | None = field(default=None, metadata={"help": "Noise on the embedding while training."})

    def __post_init__(self):
        if isinstance(self.decoder_config, str):
            self.decoder_config = json.loads(self.decoder_config)
        if (self.decoder is None) == (self.decoder_config is None):
            raise ValueError("say either decoder, a checkpoint, or decoder_config, the fields of a fresh model")
        if self.decoder_config is not None and "model_type" not in self.decoder_config:
            raise ValueError("decoder_config needs a model_type, such as 'llama'")

    def build(self, texts: Iterable[str]) -> tuple[VLJepaForConditionalGeneration, VLJepaProcessor]:
        """The model in float32, of which the decoder alone is trained, and its processor.

        Args:
            texts: on which a tokenizer is trained where none is named.
        """
        named = self.decoder_tokenizer or self.decoder
        tokenizer = AutoTokenizer.from_pretrained(named) if named else train_pair_tokenizer(texts, self.tokenizer_size)
        fields = {name: getattr(self, name) for name in ("num_prefix_tokens", "prefix_noise")}
        fields = {name: value for name, value in fields.items() if value is not None}
        part = self.decoder or fresh_text_config(self.decoder_config, tokenizer, "decoder_config")
        model = VLJepaForConditionalGeneration.from_vl_jepa(self.model_name_or_path, part, **fields)
        processor = VLJepaProcessor.from_pretrained(self.model_name_or_path)
        processor.decoder_tokenizer = tokenizer
        return model, processor


class DecoderCollator:
    """Batches of texts, in the tokens of the text encoder and of the decoder.

    Args:
        processor: a `VLJepaProcessor` with a tokenizer for the decoder.

    Raises:
        ValueError: a batch of which no text can be read.
    """

    def __init__(self, processor: VLJepaProcessor):
        self.processor = processor

    def __call__(self, texts: Sequence[str | UndecodableImage]) -> dict[str, Any]:
        found = [text for text in texts if isinstance(text, str)]
        for broken in (text for text in texts if not isinstance(text, str)):
            logger.warning_once(f"left out one of the texts: {broken}")
        if not found:
            raise ValueError(f"a batch has no text: {'; '.join(map(str, texts))}")
        return dict(self.processor(targets=found, decoder_targets=found))


class VLJepaDecoderTrainer(RunTrainer):
    """Trains the decoder of a `VLJepaForConditionalGeneration` to write texts again from their embeddings.

    Args:
        model: of which all but the decoder is frozen.
        args: `VLJepaDecoderTrainingArguments`.
        kwargs: as for `Trainer`; `train_dataset` is of texts, `data_collator` a `DecoderCollator`.

    Raises:
        ValueError: a checkpoint of another model to resume from.
        FloatingPointError, ValueError: see also `GuardMixin`.
    """

    samples, left_out = "texts", "were empty"

    def __init__(self, model: VLJepaForConditionalGeneration, args: VLJepaDecoderTrainingArguments, **kwargs: Any):
        kwargs["processing_class"] = unaligned(kwargs.get("processing_class"))
        super().__init__(model=model, args=args, **kwargs)
        self.skipped: dict[str, None] = {}
        self._sizes = trained_of_all(model)
        self.written: dict[str, float] = {}

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Nothing to warn of, but weights that a checkpoint leaves as they are belong to another model."""
        require_same_model(self.model, load_result)

    def write_again(self, texts: Iterable[str], **options: Any) -> dict[str, float]:
        """The share of texts that the decoder writes again word by word from what the text encoder says of them.

        Args:
            texts: of which the first `WRITTEN` are taken.
            options: of `generate`.
        """
        texts = [text for text in islice(texts, WRITTEN) if isinstance(text, str)]
        model = self.accelerator.unwrap_model(self.model)
        tasks = VisionLanguageTasks(model, self.processing_class, self.args.per_device_eval_batch_size)
        found = vqa_accuracy(tasks.decode(tasks.embed_texts(texts), **options), texts)
        self.written = {"texts": len(texts), "exact": found["accuracy"]}
        return self.written

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, losses, texts that were written again."""
        rows: dict[str, Any] = {"steps": self.state.global_step} | first_and_last(self.state.log_history)
        if "eval_loss" in (last := last_logged(self.state.log_history)):
            rows["evaluation loss"] = last["eval_loss"]
        if self.written:
            rows[f"written again, of {self.written['texts']}"] = self.written["exact"]
        return rows | self.throughput() | self.nonfinite_summary()

    def card_details(self) -> dict[str, Any]:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.summary().items() if "loss" in name)
        facts = {"Trained values": "{:,} of {:,} (the decoder)".format(*self._sizes), "Losses": shown}
        if self.written:
            facts["Texts written again"] = f"{self.written['exact']:.1%} of {self.written['texts']}, word by word"
        return {"facts": facts, "unverified": "No caption of a video was scored in this run."}


def train(argv: Sequence[str], description: str | None = None, prog: str | None = None) -> VLJepaDecoderTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `DecoderArguments`, `VisionTextArguments` (of which the
            targets are taken) and `VLJepaDecoderTrainingArguments`.
        description, prog: for `--help`.

    Returns:
        the trainer, after training and saving.

    Raises:
        ValueError: as the parts do.
    """
    types = (DecoderArguments, VisionTextArguments, VLJepaDecoderTrainingArguments)
    arguments, data, training = parse_recipe(types, argv, description, prog)
    begin(training)
    card = data.data_card() | arguments.model_card()  # whose errors come before the training
    texts = Targets(data.open(training.seed, read_media=False))
    test = data.open_eval(training.seed, read_media=False)
    test = None if test is None else Targets(test)
    with whole_models(training):
        model, processor = arguments.build(data.texts())
    trainer = VLJepaDecoderTrainer(
        model,
        training,
        train_dataset=texts,
        eval_dataset=test,
        data_collator=DecoderCollator(processor),
        processing_class=processor,
    )
    run_training(trainer, given_fields(types, argv))
    if test is not None:
        trainer.evaluate()
        if not training.uses_engine:  # which hold weights in pieces
            trainer.write_again(test, max_new_tokens=model.config.max_target_length)
    if trainer.is_world_process_zero():
        print("\n" + format_table(trainer.summary()))
    finish(trainer, card)
    return trainer


__all__ = [
    "DecoderArguments",
    "DecoderCollator",
    "VLJepaDecoderTrainer",
    "VLJepaDecoderTrainingArguments",
    "train",
]
