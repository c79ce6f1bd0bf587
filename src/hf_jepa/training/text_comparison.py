"""A tiny language model trained from scratch on generated pairs, with and without the JEPA term, at equal cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import LlamaConfig, PreTrainedTokenizerBase, set_seed

from hf_jepa.data.pair_tokenizer import train_pair_tokenizer
from hf_jepa.data.regex_pairs import equivalent, regex_pairs
from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.data.text_sources import TextPairDataset
from hf_jepa.data.text_tokens import add_predictor_tokens
from hf_jepa.evaluation.embedding_geometry import MIN_PAIRS, EmbeddingGeometry, embedding_geometry, pair_embeddings
from hf_jepa.evaluation.text_generation import generate_answers
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.comparison import said_in
from hf_jepa.training.costs import StepClock
from hf_jepa.training.kept import kept
from hf_jepa.training.llm_jepa import LlmJepaTrainer, LlmJepaTrainingArguments
from hf_jepa.training.text_flops import counted_flops, training_flops


LANGUAGE_MODEL = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
VOCABULARY = 512
WARMUP = 0.1  # share of the steps
NEW_TOKENS = 48  # answers have at most some 35
ALONE, JEPA = "language model alone", "LLM-JEPA"
FIGURES = ("true_mean", "shuffled_mean", "auc", "recall_at_1", "rank_difference", "linear_residual")


@dataclass(frozen=True)
class TextObjective:
    """How one row of a comparison is trained.

    Args:
        title: of the row.
        learning_rate: at the end of the warm-up, from where it falls linearly to 0.
        jepa_weight: lambda; 0 is the language model alone, for which no views are computed.
        jepa_dropout: share of the batches without JEPA loss.
    """

    title: str
    learning_rate: float
    jepa_weight: float = 0.0
    jepa_dropout: float = 0.0


# As many tries for the baseline as for the objective, on further pairs of the training split. The last two of each
# were added because the best learning rate of the objective was the largest one tried.
TRIES = {
    "lm": [TextObjective(ALONE, rate) for rate in (2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 12e-3, 16e-3, 24e-3)],
    "jepa": [
        *(TextObjective(JEPA, rate, weight) for rate in (4e-3, 8e-3) for weight in (0.25, 1.0, 4.0)),
        *(TextObjective(JEPA, rate, 0.25) for rate in (12e-3, 16e-3)),
    ],
}
OBJECTIVES = {
    "lm": TextObjective(ALONE, 6e-3),
    "jepa": TextObjective(JEPA, 12e-3, 0.25),
    "jepa_half": TextObjective(f"{JEPA}, half of the batches", 12e-3, 0.5, jepa_dropout=0.5),
    "jepa_quarter": TextObjective(f"{JEPA}, a quarter of the batches", 12e-3, 1.0, jepa_dropout=0.75),
}
# LLM-JEPA without its term: at about half the cost, as many steps.
SAME_STEPS = TextObjective(f"{ALONE}, same steps", OBJECTIVES["jepa"].learning_rate)


@dataclass(frozen=True)
class TextComparison:
    """What all rows of a comparison share.

    Args:
        pairs: training pairs.
        test_pairs: pairs that are judged.
        batch_size: pairs of a step.
        depth: of the grammar, see `regex_pairs`.
        validate: judge on further pairs of the training split, for choosing settings.

    Raises:
        ValueError: a number below 1.
    """

    pairs: int = 4000
    test_pairs: int = 300
    batch_size: int = 32
    depth: int = 1
    validate: bool = False

    def __post_init__(self):
        for name in ("pairs", "test_pairs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def records(self) -> tuple[list[dict], list[dict]]:
        """Conversations to train on, and others to judge by."""
        if not self.validate:
            return tuple(self._draw(split, n) for split, n in (("train", self.pairs), ("test", self.test_pairs)))
        drawn = self._draw("train", self.pairs + self.test_pairs)
        return drawn[: self.pairs], drawn[self.pairs :]

    def _draw(self, split: str, count: int) -> list[dict]:
        return regex_pairs(split, count, depth=self.depth, system_prompt=None)


class _Material(NamedTuple):
    """Data of a comparison, ready for models."""

    tokenizer: PreTrainedTokenizerBase
    train: TextPairDataset
    judged: TextPairDataset
    views: TextPairDataset  # of what is judged, one pair for each Code, so that there is one nearest
    plain_views: TextPairDataset  # without predictor token
    records: list[dict]  # that are judged


@lru_cache(maxsize=1)
def prepare(comparison: TextComparison) -> _Material:
    """Draw the pairs, train the tokenizer on those for training, and tokenize them.

    Raises:
        ValueError: too few different regular expressions among those that are judged, for the geometry.
    """
    train, judged = comparison.records()
    tokenizer = train_pair_tokenizer([turn["content"] for record in train for turn in record["messages"]], VOCABULARY)
    add_predictor_tokens(tokenizer, 1)
    preprocess, plainly = (LlmJepaPreprocessor(tokenizer, num_predictor_tokens=count) for count in (1, 0))
    distinct = list({record["messages"][-1]["content"]: record for record in judged}.values())
    if len(distinct) < MIN_PAIRS:
        raise ValueError(
            f"test_pairs={comparison.test_pairs} have {len(distinct)} different regular expressions, but geometry "
            f"needs {MIN_PAIRS}: ask for more"
        )
    sets = [TextPairDataset(records, preprocess) for records in (train, judged, distinct)]
    return _Material(tokenizer, *sets, TextPairDataset(distinct, plainly), judged)


def fresh_model(tokenizer: PreTrainedTokenizerBase, objective: TextObjective) -> LlmJepaForCausalLM:
    """A tiny Llama: the same weights for every objective after the same `set_seed`."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    llama = LlamaConfig(vocab_size=len(tokenizer), **LANGUAGE_MODEL, **special)
    fields = {"jepa_weight": objective.jepa_weight, "jepa_dropout": objective.jepa_dropout}
    return LlmJepaForCausalLM(LlmJepaConfig(text_config=llama, **fields))


def flops_per_step(objective: TextObjective, comparison: TextComparison) -> float:
    """Of an average batch."""
    data = prepare(comparison)
    with torch.device("meta"):
        model = fresh_model(data.tokenizer, objective)

    def of_all(views: bool) -> float:
        collator = LlmJepaDataCollator(data.tokenizer.pad_token_id, views=views)
        loader = DataLoader(data.train, comparison.batch_size, collate_fn=collator)
        return sum(training_flops(model, batch) for batch in loader) * comparison.batch_size / len(data.train)

    if objective.jepa_weight == 0:
        return of_all(views=False)
    without = objective.jepa_dropout * of_all(views=False) if objective.jepa_dropout else 0.0
    return without + (1 - objective.jepa_dropout) * of_all(views=True)


def train_language_model(
    objective: TextObjective, comparison: TextComparison, steps: int, seed: int, folder: Path, title: str
) -> dict[str, Any]:
    """Train one model, save it, and judge it; what the trainer printed stays in the folder.

    Returns:
        `judge`'s figures, `steps`, `gflops` spent on training, `cpu_ms` of a step, and the losses at the end.
    """
    data = prepare(comparison)
    set_seed(seed)
    model = fresh_model(data.tokenizer, objective)
    training = LlmJepaTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=comparison.batch_size,
        learning_rate=objective.learning_rate,
        warmup_steps=WARMUP,
        logging_steps=min(20, steps),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        seed=seed,
        data_seed=seed,
    )
    collator = LlmJepaDataCollator(
        data.tokenizer.pad_token_id, views=objective.jepa_weight > 0, with_lm_only=objective.jepa_dropout > 0
    )
    trainer = LlmJepaTrainer(
        model, training, train_dataset=data.train, data_collator=collator, processing_class=data.tokenizer
    )
    folder.mkdir(parents=True, exist_ok=True)
    with said_in(folder / "log.txt"), StepClock(title, steps) as clock, counted_flops(model) as spent:
        trainer.train()
        trainer.save_model()
    last = {f"train_{name}": value for name, value in _last(trainer.state.log_history).items()}
    figures = judge(model, comparison, with_predictor=objective.jepa_weight > 0)
    return figures | {"steps": steps, "gflops": sum(spent) / 1e9, "cpu_ms": clock.milliseconds()["cpu_ms"]} | last


def _last(log: Sequence[Mapping[str, float]]) -> dict[str, float]:
    entries = [entry for entry in log if "lm_loss" in entry]
    return {name: entries[-1][name] for name in ("lm_loss", "jepa_loss") if name in entries[-1]}


def geometry(model: LlmJepaForCausalLM, comparison: TextComparison, with_predictor: bool) -> EmbeddingGeometry:
    """Of the pairs that are judged, one for each regular expression.

    Args:
        model: trained in this comparison.
        comparison: that it was trained in.
        with_predictor: read Text at the predictor token. A model that has never seen it is read at the last token of
            Text instead.
    """
    data = prepare(comparison)
    pairs = data.views if with_predictor else data.plain_views
    return embedding_geometry(*pair_embeddings(model, _batches(pairs, data), progress=False))


@torch.no_grad()
def judge(model: LlmJepaForCausalLM, comparison: TextComparison, with_predictor: bool) -> dict[str, float]:
    """Share of right answers, losses and embeddings of the pairs that are judged.

    Args: as of `geometry`.

    Returns:
        `exact` and `equivalent`, shares of greedy answers that are the reference or decide alike; `lm_loss`, the mean
        cross-entropy of the reference's tokens; and the `FIGURES` of the geometry.
    """
    data = prepare(comparison)
    model.eval()
    answers = generate_answers(model, data.tokenizer, data.records, 100, NEW_TOKENS, progress=False)
    references = [record["messages"][-1]["content"] for record in data.records]
    answered = list(zip(answers, references, strict=True))
    losses = [(model(**batch).lm_loss.item(), len(batch["label_index"])) for batch in _batches(data.judged, data)]
    figures = geometry(model, comparison, with_predictor).as_dict()
    return {
        "exact": fmean(answer == reference for answer, reference in answered),
        "equivalent": fmean(equivalent(answer, reference) for answer, reference in answered),
        "lm_loss": sum(loss * tokens for loss, tokens in losses) / sum(tokens for _, tokens in losses),
    } | {name: figures[name] for name in FIGURES}


def _batches(pairs: TextPairDataset, data: _Material) -> DataLoader:
    return DataLoader(pairs, 100, collate_fn=LlmJepaDataCollator(data.tokenizer.pad_token_id))


def plan(
    objectives: Mapping[str, TextObjective], comparison: TextComparison, jepa_steps: int
) -> dict[str, tuple[TextObjective, int]]:
    """How many optimizer steps each objective gets: those that cost as much as so many steps of LLM-JEPA.

    Args:
        objectives: such as `OBJECTIVES`.
        comparison: what they share.
        jepa_steps: steps in which the JEPA loss is computed of every batch.

    Returns:
        name of the row -> objective and steps.
    """
    budget = jepa_steps * flops_per_step(OBJECTIVES["jepa"], comparison)
    costs = {name: flops_per_step(objective, comparison) for name, objective in objectives.items()}
    return {name: (objective, max(1, round(budget / costs[name]))) for name, objective in objectives.items()}


def run_all(
    planned: Mapping[str, tuple[TextObjective, int]], comparison: TextComparison, seeds: Sequence[int], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Train and judge all rows with all seeds. Runs that are in the folder, made with the same settings, are kept.

    Args:
        planned: name of the row -> objective and steps, such as from `plan`.
        comparison: what they share.
        seeds: of weights and order of the pairs, which are the same for all rows.
        folder: where runs go, one folder each.

    Returns:
        name of the row -> what was found with each seed.

    Example:
        >>> import tempfile
        >>> shared = TextComparison(pairs=64, test_pairs=40, batch_size=4)
        >>> rows = {"lm": (TextObjective("language model alone", 1e-3), 1)}
        >>> found = run_all(rows, shared, [0], Path(tempfile.mkdtemp()))["lm"]
        >>> found[0]["steps"], found[0]["exact"]
        (1, 0.0)
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in planned}
    for seed in seeds:
        for name, (objective, steps) in planned.items():
            place = folder / f"{name}-{seed}"
            settings = asdict(objective) | asdict(comparison) | {"steps": steps, "seed": seed}
            settings |= {"language_model": LANGUAGE_MODEL, "vocabulary": VOCABULARY, "warmup": WARMUP}
            title = f"{objective.title}, {steps} steps, seed {seed}"
            make = partial(train_language_model, objective, comparison, steps, seed, place, title)
            found[name].append(kept(place, settings, make, say=tqdm.write))
    return found


__all__ = [
    "FIGURES",
    "LANGUAGE_MODEL",
    "OBJECTIVES",
    "SAME_STEPS",
    "TRIES",
    "TextComparison",
    "TextObjective",
    "flops_per_step",
    "fresh_model",
    "geometry",
    "judge",
    "plan",
    "prepare",
    "run_all",
    "train_language_model",
]
