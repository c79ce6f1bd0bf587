"""The program behind `evaluate_vl_jepa.py`: classification, retrieval and visual questions without any training."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.evaluation.retrieval import retrieval_recalls, vqa_accuracy
from hf_jepa.evaluation.vision_language import VisionLanguageTasks
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaModel
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor
from hf_jepa.training.kept import write_text
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.reports import format_table
from hf_jepa.training.run_cards import public_recipe
from hf_jepa.training.vision_text_data import Targets, VisionTextArguments


TASKS = ("classification", "retrieval", "vqa")
CANDIDATES = ("all", "query")
CHUNK = 8  # batches of videos that are held at a time


@dataclass(kw_only=True)
class VLJepaEvaluationArguments:
    """What is measured of which model."""

    model_name_or_path: str = field(metadata={"help": "Trained VL-JEPA, with its processor."})
    tasks: list[str] = field(
        default_factory=lambda: ["retrieval"], metadata={"help": f"Any of {', '.join(TASKS)}.", "choices": list(TASKS)}
    )
    labels: str | None = field(
        default=None, metadata={"help": "classification: file of labels, one a line; default: all targets there are."}
    )
    templates: list[str] = field(
        default_factory=lambda: ["{}"], metadata={"help": "classification: texts with {} in place of the label."}
    )
    query: str | None = field(
        default=None, metadata={"help": "classification, retrieval: what is asked of every video; default: nothing."}
    )
    candidates: str = field(
        default="all",
        metadata={
            "help": "vqa: answers to choose from, 'all' that occur, or those that occur for the same 'query'.",
            "choices": list(CANDIDATES),
        },
    )
    max_samples: int | None = field(default=None, metadata={"help": "Take the first of the records only."})
    batch_size: int = field(default=16, metadata={"help": "Videos or texts at a time."})
    device: str | None = field(default=None, metadata={"help": "Default: a GPU where there is one."})
    seed: int = field(default=0, metadata={"help": "Of generated data."})
    output: str | None = field(default=None, metadata={"help": "JSON file for the numbers, with the settings."})

    def __post_init__(self):
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples={self.max_samples} leaves nothing to measure")
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")


class _Records:
    """The samples of a data set, videos as vision tokens: what all tasks are asked about."""

    def __init__(self, dataset: Any, tasks: VisionLanguageTasks, limit: int | None, batch_size: int):
        self.dataset, self.tasks, self.batch_size = dataset, tasks, batch_size
        self.count = len(dataset) if limit is None else min(limit, len(dataset))
        self.skipped: list[str] = []

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """Parts of the readable samples, each with its "tokens"."""
        step = CHUNK * self.batch_size
        for first in tqdm(range(0, self.count, step), desc="videos", unit="part"):
            found = [self.dataset[index] for index in range(first, min(first + step, self.count))]
            self.skipped += [str(sample) for sample in found if isinstance(sample, UndecodableImage)]
            samples = [sample for sample in found if not isinstance(sample, UndecodableImage)]
            by_length = defaultdict(list)
            for sample in samples:
                by_length[len(sample["video"])].append(sample)
            for group in by_length.values():  # clips of one length at a time
                tokens = self.tasks.encode_videos([sample["video"] for sample in group])
                yield [sample | {"tokens": each} for sample, each in zip(group, tokens, strict=True)]


def measure(
    tasks: VisionLanguageTasks, dataset: Any, arguments: VLJepaEvaluationArguments, targets: Sequence[str]
) -> dict[str, Any]:
    """All numbers that are asked for, in one pass over the videos.

    Args:
        tasks: of the model.
        dataset: samples {"video", "query", "target"}.
        arguments: which tasks, and how.
        targets: of all records, from which labels and candidates are taken.

    Returns:
        "samples", "skipped", and of each task its scores.

    Raises:
        ValueError: a target that is no label, a record without query for vqa, nothing readable.
    """
    records = _Records(dataset, tasks, arguments.max_samples, arguments.batch_size)
    labels = _labels(arguments, targets) if "classification" in arguments.tasks else []
    rows: list[dict[str, Any]] = []
    for chunk in records.chunks():
        tokens = [sample["tokens"] for sample in chunk]
        found = [{"query": sample.get("query") or "", "target": sample["target"]} for sample in chunk]
        if labels:
            ranked = tasks.classify(tokens, labels, arguments.query, arguments.templates, top_k=min(5, len(labels)))
            for row, best in zip(found, ranked, strict=True):
                row["labels"] = [each["label"] for each in best]
        if "retrieval" in arguments.tasks:
            for row, embedding in zip(found, tasks.embed_videos(tokens, arguments.query), strict=True):
                row["embedding"] = embedding
        if "vqa" in arguments.tasks:
            if silent := [row for row in found if not row["query"]]:
                raise ValueError(f"vqa: the record with target {silent[0]['target']!r} asks nothing, it has no query")
            for row, embedding in zip(found, tasks.embed_videos(tokens, [r["query"] for r in found]), strict=True):
                row["answer"] = embedding
        rows += found
    if not rows:
        raise ValueError(f"none of {records.count} records can be read: {'; '.join(records.skipped[:5])}")
    scores: dict[str, Any] = {"samples": len(rows), "skipped": records.skipped}
    if labels:
        scores["classification"] = _classification(rows, labels)
    if "retrieval" in arguments.tasks:
        scores["retrieval"] = _retrieval(rows, tasks)
    if "vqa" in arguments.tasks:
        scores["vqa"] = _answers(rows, tasks, arguments.candidates)
    return scores


def _labels(arguments: VLJepaEvaluationArguments, targets: Sequence[str]) -> list[str]:
    if arguments.labels is None:
        return list(dict.fromkeys(targets))
    lines = Path(arguments.labels).read_text(encoding="utf-8").splitlines()
    labels = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if unknown := sorted({target for target in targets if target not in set(labels)}):
        raise ValueError(f"{len(unknown)} targets are not in {arguments.labels}, such as {unknown[0]!r}")
    return labels


def _classification(rows: list[dict[str, Any]], labels: list[str]) -> dict[str, float]:
    places = [row["labels"].index(row["target"]) if row["target"] in row["labels"] else 5 for row in rows]
    shares = {f"top {k}": sum(place < k for place in places) / len(rows) for k in (1, 5) if k <= len(labels)}
    return {"labels": len(labels)} | shares


def _retrieval(rows: list[dict[str, Any]], tasks: VisionLanguageTasks) -> dict[str, Any]:
    texts = list(dict.fromkeys(row["target"] for row in rows))  # equal texts are one
    number = {text: i for i, text in enumerate(texts)}
    videos = torch.tensor([number[row["target"]] for row in rows])
    similarities = torch.stack([row["embedding"] for row in rows]) @ tasks.embed_texts(texts).T
    return {"texts": len(texts)} | retrieval_recalls(similarities, videos, torch.arange(len(texts)))


def _answers(rows: list[dict[str, Any]], tasks: VisionLanguageTasks, candidates: str) -> dict[str, Any]:
    choices = defaultdict(dict)
    for row in rows:
        choices[row["query"] if candidates == "query" else ""][row["target"]] = None
    answers = []
    for row in rows:
        texts = list(choices[row["query"] if candidates == "query" else ""])
        answers.append(texts[int((tasks.embed_texts(texts) @ row["answer"]).argmax())])
    counts = [len(texts) for texts in choices.values()]
    return {"candidates": max(counts)} | vqa_accuracy(answers, [row["target"] for row in rows])


def score_rows(scores: dict[str, Any]) -> dict[str, Any]:
    """The lines of the table that people read.

    Example:
        >>> score_rows({"samples": 4, "skipped": [], "vqa": {"candidates": 2, "accuracy": 0.5}})
        {'samples': 4, 'skipped': 0, 'vqa: candidates': 2, 'vqa: accuracy': 0.5}
    """
    rows: dict[str, Any] = {"samples": scores["samples"], "skipped": len(scores["skipped"])}
    for task in TASKS:
        for name, value in scores.get(task, {}).items():
            nested = value if isinstance(value, dict) else {"": value}
            rows |= {f"{task}: {name} {own}".strip(): each for own, each in nested.items()}
    return rows


def evaluate(argv: Sequence[str], description: str | None = None, prog: str | None = None) -> dict[str, Any]:
    """Measure a model and print a table.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `VLJepaEvaluationArguments` and `VisionTextArguments`.
        description, prog: for `--help`.

    Returns:
        the numbers, see `measure`.

    Raises:
        ValueError: as the parts do.
    """
    types = (VLJepaEvaluationArguments, VisionTextArguments)
    arguments, data = parse_recipe(types, argv, description, prog)
    data = replace(data, train_split=data.eval_split or data.train_split)
    dataset, texts = (data.open(arguments.seed, read_media=read_media) for read_media in (True, False))
    model = VLJepaModel.from_pretrained(arguments.model_name_or_path).to(arguments.device).eval()
    processor = VLJepaProcessor.from_pretrained(arguments.model_name_or_path)
    tasks = VisionLanguageTasks(model, processor, arguments.batch_size)
    count = len(dataset) if arguments.max_samples is None else min(arguments.max_samples, len(dataset))
    targets = [target for target in map(Targets(texts).__getitem__, range(count)) if isinstance(target, str)]
    scores = measure(tasks, dataset, arguments, targets)
    print("\n" + format_table(score_rows(scores)))
    if arguments.output:
        text = json.dumps({"settings": public_recipe(given_fields(types, argv)), "scores": scores}, indent=2)
        write_text(Path(arguments.output), text + "\n")
    return scores


__all__ = ["VLJepaEvaluationArguments", "evaluate", "measure", "score_rows"]
