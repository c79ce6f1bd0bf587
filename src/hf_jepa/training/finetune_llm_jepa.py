"""The program behind the LLM-JEPA script: recipe and text pairs in, trained language model out."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.data.text_sources import TextPairDataset, open_text_pairs
from hf_jepa.data.text_tokens import PERCEPTION_TOKEN, add_predictor_tokens, token_ids
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.adapters import LoraArguments
from hf_jepa.training.fresh_language_model import fresh_text_config
from hf_jepa.training.llm_jepa import LlmJepaTrainer, LlmJepaTrainingArguments, add_adapters, require_mergeable
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.run_cards import LicenseArguments, dataset_names


logger = logging.get_logger(__name__)

GENERATED = ("regex", "regex_paraphrases")  # data sets that the package makes itself


@dataclass(kw_only=True)
class LanguageModelArguments(LoraArguments, LicenseArguments):
    """The language model of a run: a checkpoint, or a fresh one."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Any causal language model."})
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of a fresh one (JSON) with its model_type; of the tokenizer's size."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "That of the checkpoint unless given; for a fresh model, else one is trained."}
    )
    tokenizer_size: int = field(default=512, metadata={"help": "Tokens of a tokenizer that is trained on the data."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights; 'auto': as in the checkpoint."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of adapters."})
    merge_adapters: bool = field(default=True, metadata={"help": "Save an ordinary checkpoint, not adapters."})

    def __post_init__(self):
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)
        if (self.model_name_or_path is None) == (self.model_config is None):
            raise ValueError("say either model_name_or_path, a checkpoint, or model_config, those of a fresh model")
        if self.model_config is not None and "model_type" not in self.model_config:
            raise ValueError("model_config needs a model_type, such as 'llama'")
        if self.lora_rank and self.model_config is not None:
            raise ValueError("lora_rank adapts a checkpoint; a fresh model learns nothing by adapters alone")


@dataclass(kw_only=True)
class ObjectiveArguments:
    """Fields of `LlmJepaConfig`; those of the checkpoint, else its defaults, unless given."""

    layout: str | None = field(default=None, metadata={"help": "packed, three_pass, additive_mask or fused."})
    distance: str | None = field(default=None, metadata={"help": "cosine, l2, mse or infonce."})
    jepa_weight: float | None = field(default=None, metadata={"help": "lambda; 0: the language-model loss alone."})
    lm_weight: float | None = field(default=None, metadata={"help": "gamma."})
    num_predictor_tokens: int | None = field(default=None, metadata={"help": "k."})
    predictor_position: str | None = field(default=None, metadata={"help": "append or prepend."})
    reverse: bool | None = field(default=None, metadata={"help": "Predict Text from Code."})
    stop_gradient: str | None = field(default=None, metadata={"help": "No gradient into: text, code or none of them."})
    jepa_dropout: float | None = field(default=None, metadata={"help": "Share of batches without JEPA loss."})
    infonce_temperature: float | None = field(default=None, metadata={"help": "Of infonce."})
    infonce_symmetric: bool | None = field(default=None, metadata={"help": "infonce in both directions."})
    infonce_gather: bool | None = field(default=None, metadata={"help": "infonce: negatives of all processes."})

    def given(self) -> dict[str, Any]:
        """As fields of the config."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return fields | ({"stop_gradient": None} if self.stop_gradient == "none" else {})


@dataclass(kw_only=True)
class TextPairArguments:
    """The data of a run, and how it becomes tokens; see `LlmJepaPreprocessor`."""

    dataset: str = field(metadata={"help": "JSONL, parquet, folder, Hub id; generated: 'regex', 'regex_paraphrases'."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to measure the losses on."})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Where that split is, unless in the data set; of a file it is 'train'."}
    )
    generated_length: int = field(default=4000, metadata={"help": "Training pairs of a generated data set."})
    generated_depth: int = field(default=2, metadata={"help": "How composed generated expressions are, 1 to 3."})
    text_column: str | None = field(default=None, metadata={"help": "Of records without messages."})
    code_column: str | None = field(default=None, metadata={"help": "Of records without messages."})
    system_prompt: str | None = field(default=None, metadata={"help": "Of records without messages."})
    label_mode: str | None = field(default=None, metadata={"help": "assistant_eot, assistant or official."})
    last_token: int | None = field(default=None, metadata={"help": "Embedding position from the end, -2 for example."})
    max_length: int = field(default=512, metadata={"help": "Tokens of a row."})
    on_truncation: str = field(default="error", metadata={"help": "Longer records: error, skip or truncate."})
    date_string: str = field(default="26 Jul 2024", metadata={"help": "For chat templates that show a date."})
    fold_system: bool | None = field(
        default=None, metadata={"help": "System prompt in the user turn; tried unless given."}
    )
    plain: bool = field(default=False, metadata={"help": "Rows without chat template."})
    train_all: bool = field(default=False, metadata={"help": "plain: learn the whole user turn (paraphrases)."})
    official: bool = field(default=False, metadata={"help": "Prepare data as the official code does."})
    packing: str = field(default="balanced", metadata={"help": "packed: balanced, pairs or single rows."})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "Of the length of rows."})

    def preprocessor(self, tokenizer: PreTrainedTokenizerBase, config: LlmJepaConfig) -> LlmJepaPreprocessor:
        names = ("text_column", "code_column", "system_prompt", "label_mode", "last_token", "max_length")
        names += ("on_truncation", "date_string", "fold_system", "plain", "train_all", "official")
        options = {name: getattr(self, name) for name in names}
        objective = ("num_predictor_tokens", "predictor_position", "reverse")
        return LlmJepaPreprocessor(tokenizer, **{name: getattr(config, name) for name in objective}, **options)

    def __post_init__(self):
        if self.eval_dataset is not None and self.eval_split is None:
            self.eval_split = "train" if os.path.isfile(self.eval_dataset) else "test"

    def records(self, split: str, source: str | None = None) -> Sequence[dict]:
        """The records of a split, of the data set unless another source is named."""
        source = source or self.dataset
        if source not in GENERATED:
            return open_text_pairs(source, split, self.text_column, self.code_column)
        from hf_jepa.data.regex_pairs import regex_pairs, regex_paraphrases

        make = regex_pairs if source == "regex" else regex_paraphrases
        count = self.generated_length if split == self.train_split else max(1, self.generated_length // 10)
        return make(split, count, depth=self.generated_depth)

    def contents(self, records: Sequence[dict]) -> Iterator[str]:
        """All texts of records."""
        for record in records:
            if self.text_column is None:
                yield from (turn["content"] for turn in record["messages"])
            else:
                yield from (record[self.text_column], record[self.code_column])


def load_tokenizer(arguments: LanguageModelArguments, contents: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, the one that is named, or one that is trained on these texts.

    A tokenizer without padding token pads with the end of sequence, which nothing sees.

    Raises:
        ValueError: a tokenizer that has neither.
    """
    source = arguments.tokenizer_name_or_path or arguments.model_name_or_path
    if source is None:
        from hf_jepa.data.pair_tokenizer import train_pair_tokenizer

        return train_pair_tokenizer(contents, vocab_size=arguments.tokenizer_size)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer {source} has neither a padding token nor one for the end: give it one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_model(
    arguments: LanguageModelArguments,
    objective: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    training: LlmJepaTrainingArguments,
) -> LlmJepaForCausalLM:
    """The model, with a row of embeddings for every token; embeddings never shrink.

    Args:
        arguments: of the language model.
        objective: fields of `LlmJepaConfig`.
        tokenizer: with its predictor tokens.
        training: which say whether weights are cut up.

    Raises:
        ValueError: a fresh model with fewer embeddings than tokens, or with a field that its config does not have.
    """
    attention = {} if arguments.attn_implementation is None else {"attn_implementation": arguments.attn_implementation}
    if arguments.model_config is not None:
        dtype = {} if arguments.dtype == "auto" else {"dtype": arguments.dtype}
        text_config = fresh_text_config(arguments.model_config, tokenizer, "model_config", **dtype)
        with whole_models(training):
            return LlmJepaForCausalLM(LlmJepaConfig(text_config=text_config, **attention, **objective))
    model = LlmJepaForCausalLM.from_pretrained(
        arguments.model_name_or_path, dtype=arguments.dtype, **attention, **objective
    )
    if len(tokenizer) > (size := model.causal_lm.config.get_text_config().vocab_size):
        logger.info(f"{len(tokenizer) - size} rows of embeddings are new")
        model.resize_token_embeddings(len(tokenizer))
    return model


def finetune(argv: Sequence[str], description: str | None = None, prog: str | None = None) -> LlmJepaTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `LanguageModelArguments`, `ObjectiveArguments`,
            `TextPairArguments` and `LlmJepaTrainingArguments`.
        description, prog: for `--help`.

    Returns:
        the trainer, after training and saving.

    Raises:
        ValueError: as the parts do.
    """
    types = (LanguageModelArguments, ObjectiveArguments, TextPairArguments, LlmJepaTrainingArguments)
    language_model, objective, data, training = parse_recipe(types, argv, description, prog)
    begin(training)
    card = dataset_names(data.dataset) | language_model.model_card()  # whose errors come before the training
    require_mergeable(language_model.lora_rank > 0 and language_model.merge_adapters, training)
    records = data.records(data.train_split)
    tokenizer = load_tokenizer(language_model, data.contents(records))
    config = LlmJepaConfig(**_of_checkpoint(language_model, objective))
    add_predictor_tokens(tokenizer, config.num_predictor_tokens, data.plain)
    preprocess = data.preprocessor(tokenizer, config)
    model = build_model(language_model, objective.given(), tokenizer, training)
    if language_model.lora_rank:
        adapters = (language_model.lora_rank, language_model.lora_alpha, language_model.lora_dropout)
        new = [*preprocess.predictor_ids, *token_ids(tokenizer, [PERCEPTION_TOKEN] * data.plain)]
        add_adapters(model, new, *adapters)
    train, test = TextPairDataset(records, preprocess), _eval_pairs(data, preprocess)
    model.require_places(max(_longest(train), _longest(test)))
    trainer = LlmJepaTrainer(
        model,
        training,
        train_dataset=train,
        eval_dataset=test,
        data_collator=LlmJepaDataCollator(
            tokenizer.pad_token_id,
            layout=config.layout,
            packing=data.packing,
            pad_to_multiple_of=data.pad_to_multiple_of,
            last_token=data.last_token,
            with_lm_only=config.jepa_dropout > 0,
            views=config.jepa_weight > 0,
        ),
        processing_class=tokenizer,
    )
    run_training(trainer, given_fields(types, argv))
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    if language_model.merge_adapters:
        trainer.merge_adapters()
    finish(trainer, card)
    return trainer


def _of_checkpoint(arguments: LanguageModelArguments, objective: ObjectiveArguments) -> dict[str, Any]:
    """The fields of the objective, before the model is there."""
    if arguments.model_name_or_path is None:
        return objective.given()
    return LlmJepaConfig.from_pretrained(arguments.model_name_or_path, **objective.given()).objective()


def _eval_pairs(data: TextPairArguments, preprocess: LlmJepaPreprocessor) -> TextPairDataset | None:
    if data.eval_split is None:
        return None
    return TextPairDataset(data.records(data.eval_split, data.eval_dataset), preprocess)


def _longest(pairs: TextPairDataset | None) -> int:
    """Tokens of the longest sequence."""
    rows = ((pair.input_ids, pair.text_ids, pair.code_ids) for pair in pairs or ())
    return max((len(ids) for row in rows for ids in row), default=0)


__all__ = [
    "LanguageModelArguments",
    "ObjectiveArguments",
    "TextPairArguments",
    "build_model",
    "finetune",
    "load_tokenizer",
]
