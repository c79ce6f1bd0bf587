"""Training objectives one after the other under the same conditions, and judging their features alike."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import set_seed
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from hf_jepa.data.columns import check_same_classes
from hf_jepa.data.embedded import PICTURES, LabelledCrops
from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.sources import load_images
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.knn import knn_classify
from hf_jepa.evaluation.linear import linear_probe
from hf_jepa.evaluation.metrics import rankme
from hf_jepa.hub.processors import ProcessorTransform, load_processor
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification, IJepaModel
from hf_jepa.registry import VARIANTS
from hf_jepa.training.comparison_data import NamedCrops
from hf_jepa.training.costs import StepClock, cost
from hf_jepa.training.finetune_image import ClassificationArguments, open_split
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.kept import kept, write_text
from hf_jepa.training.objectives import ENCODER, SCHEDULE, Objective, recipe
from hf_jepa.training.pretrain_image import EMBEDDED, PretrainingArguments, build_model, pretrain


BASELINES = {"raw": "raw pixels", "untrained": "untrained encoder"}
SUPERVISED = {"supervised": "supervised (labels)"}
GALLERY_PER_PICTURE, TEST_PER_PICTURE = 60, 30
NEIGHBOURS = 20
WEIGHT_DECAYS = (1e-1, 1.0, 10.0)  # of the linear probe: few rows for many dimensions
VALIDATION_SEED = 1000  # added to that of the gallery


@dataclass(frozen=True)
class Comparison:
    """What all rows of a comparison share.

    Args:
        dataset: "embedded", or a folder (or anything `load_images` opens) with labelled splits "train" and "test".
        steps: optimizer steps of every run.
        batch_size: images of a step.
        image_size: side in pixels, a multiple of 8.
        use_cpu: also where there is an accelerator.
        validate: judge on other crops of the training halves ("embedded" only), for choosing settings.

    Raises:
        ValueError: unusable numbers; validation on a folder.
    """

    dataset: str = EMBEDDED
    steps: int = 400
    batch_size: int = 64
    image_size: int = 48
    use_cpu: bool = True
    validate: bool = False

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size < 1 or self.image_size % ENCODER["patch_size"]:
            raise ValueError(f"image_size {self.image_size} is no multiple of {ENCODER['patch_size']} pixels")
        if self.validate and self.dataset != EMBEDDED:
            raise ValueError(f"validation is made of the embedded pictures; divide {self.dataset} otherwise instead")

    def config(self) -> IJepaConfig:
        """Of the encoder that all train."""
        return IJepaConfig(image_size=self.image_size, **ENCODER)

    def recipe(self, objective: Objective, seed: int) -> dict[str, Any]:
        """Of a run, without the folder that it writes to."""
        sizes = (self.steps, seed, self.batch_size, self.image_size)
        return recipe(objective, self.dataset, *sizes) | {"use_cpu": self.use_cpu}

    def labelled(self, seed: int, processor: Callable | None = None) -> tuple[Dataset, Dataset]:
        """What features are judged on: labelled images to learn from, and to be tested on.

        Args:
            seed: of the embedded crops.
            processor: of the model, for other images.

        Raises:
            ValueError: splits without labels or of different classes.
        """
        if self.dataset == EMBEDDED:
            test = ("train", TEST_PER_PICTURE, self.image_size, seed + VALIDATION_SEED)
            if not self.validate:
                test = ("test", TEST_PER_PICTURE, self.image_size, seed)
            return LabelledCrops("train", GALLERY_PER_PICTURE, self.image_size, seed), LabelledCrops(*test)
        transform = ProcessorTransform(processor or IJepaImageProcessor.from_config(self.config()))
        splits = [ImageDataset(load_images(self.dataset, split), transform) for split in ("train", "test")]
        if any(split.labels is None for split in splits):
            raise ValueError(f"{self.dataset} has no labels: put the images of each class into a folder of its own")
        check_same_classes("train", splits[0].class_names, "test", splits[1].class_names)
        return splits[0], splits[1]


class _Pixels(nn.Module):
    """The encoder that does nothing: all pixels are one token, of grey images those of one channel."""

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        if torch.equal(pixel_values, pixel_values[:, :1].expand_as(pixel_values)):
            pixel_values = pixel_values[:, :1]
        return BaseModelOutput(last_hidden_state=pixel_values.flatten(1).unsqueeze(1))


def judge(encoder: nn.Module, data: tuple[Dataset, Dataset], linear: bool = True) -> dict[str, float]:
    """k-NN and linear accuracy and RankMe of features, the mean over the tokens of the last layer.

    Every dimension is standardised by the gallery for both probes. RankMe is that of the test features as they are.

    Args:
        encoder: frozen, with `last_hidden_state` (B, N, D).
        data: labelled images to learn from and to test on.
        linear: whether to fit the linear probe, which takes a second.
    """
    (gallery, gallery_labels), (test, test_labels) = (extract_features(encoder, part, progress=False) for part in data)
    if gallery_labels is None or test_labels is None:
        raise ValueError("features without labels cannot be judged")
    std, mean = torch.std_mean(gallery, dim=0)
    x, y = ((part - mean) / std.clamp(min=1e-6) for part in (gallery, test))
    probed = (x, gallery_labels, y, test_labels)
    found = {"knn": knn_classify(*probed, k=min(NEIGHBOURS, len(x))).accuracy, "rankme": rankme(test)}
    return found | ({"linear": linear_probe(*probed, weight_decays=WEIGHT_DECAYS).accuracy} if linear else {})


def train_objective(
    objective: Objective, comparison: Comparison, seed: int, folder: Path, title: str
) -> dict[str, Any]:
    """Pretrain by one objective and judge the features; recipe, model and what was printed stay in the folder."""
    values = comparison.recipe(objective, seed) | {"output_dir": str(folder)}
    found = {"knn_before": _judge_start(objective, values["model_config"], comparison, seed)}
    write_text(folder / "recipe.yaml", yaml.safe_dump(values, sort_keys=False))
    with said_in(folder / "log.txt"), StepClock(title, comparison.steps) as clock:
        trainer = pretrain(objective.variant, [str(folder / "recipe.yaml")])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found |= {"first_loss": losses[0], "last_loss": losses[-1], "verdict": trainer.collapse_monitor.verdict}
    trainer.collapse_monitor = None  # whose pass of the target encoder is none of the objective's cost
    encoder = trainer.model.feature_encoder
    found |= judge(encoder, comparison.labelled(seed, trainer.processing_class))
    return found | clock.milliseconds() | cost(trainer)


def _judge_start(objective: Objective, fields: dict[str, Any], comparison: Comparison, seed: int) -> float:
    """k-NN accuracy of the very encoder that is going to be trained."""
    variant = VARIANTS[objective.variant]
    set_seed(seed)
    model = build_model(variant, PretrainingArguments(dataset=comparison.dataset, model_config=fields))
    data = comparison.labelled(seed, load_processor(None, model.config))
    with torch.no_grad():
        # transformers keeps the relative positions of BEiT and data2vec for the whole process: made in inference mode,
        # as features are, they could not be trained with.
        model.feature_encoder.eval()(data[0][0]["pixel_values"].unsqueeze(0))
    return judge(model.feature_encoder, data, linear=False)["knn"]


@contextlib.contextmanager
def said_in(path: Path) -> Iterator[None]:
    """What a run prints goes to a file, and its bars for loading and saving nowhere."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with open(path, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def judge_baseline(name: str, comparison: Comparison, seed: int) -> dict[str, Any]:
    """Judge raw pixels, whose RankMe would be one of another width, or an encoder with fresh weights."""
    set_seed(seed)
    if name == "raw":
        found = judge(_Pixels(), comparison.labelled(seed))
        return {probe: found[probe] for probe in ("knn", "linear")}
    return judge(IJepaModel(comparison.config()), comparison.labelled(seed))


def train_supervised(comparison: Comparison, seed: int, folder: Path, title: str) -> dict[str, Any]:
    """Train the encoder to name the class of the training crops, by the schedule of the objectives, and judge it."""
    set_seed(seed)
    config, size = comparison.config(), comparison.image_size
    if comparison.dataset == EMBEDDED:
        data, classes = NamedCrops(comparison.steps * comparison.batch_size, size, seed), len(PICTURES)
    else:
        arguments = ClassificationArguments(str(folder), comparison.dataset, horizontal_flip=False)
        processor = IJepaImageProcessor.from_config(config)
        data = open_split(arguments, "train", processor, size, seed, train=True)
        classes = 1 + max(data.labels)
    config.num_labels = classes
    training = FineTuningArguments(
        output_dir=str(folder),
        max_steps=comparison.steps,
        per_device_train_batch_size=comparison.batch_size,
        learning_rate=SCHEDULE["learning_rate"],
        weight_decay=SCHEDULE["weight_decay"],
        warmup_steps=0.1,
        logging_steps=max(1, comparison.steps // 20),
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=comparison.use_cpu,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    model = IJepaForImageClassification(config)
    collator = ImageCollator(keep_unreadable=True)
    trainer = ClassificationTrainer(model, training, train_dataset=data, data_collator=collator)
    folder.mkdir(parents=True, exist_ok=True)
    with said_in(folder / "log.txt"), StepClock(title, comparison.steps) as clock:
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {"first_loss": losses[0], "last_loss": losses[-1]}
    found |= judge(model.base_model, comparison.labelled(seed)) | clock.milliseconds()
    return found | cost(trainer)


def compare(
    objectives: Mapping[str, Objective], comparison: Comparison, seeds: int, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Train and judge every objective with every seed, beside raw pixels, the untrained encoder and a supervised one.

    Runs that are in the folder already, made with the same settings, are kept.

    Args:
        objectives: some of `image_objectives()`.
        comparison: what they share.
        seeds: how many, from 0.
        folder: where runs go, one folder each.

    Returns:
        name of the row -> what was found with each seed.

    Example:
        >>> import tempfile
        >>> shared = Comparison(steps=1, batch_size=4, image_size=16)
        >>> list(compare({}, shared, seeds=1, folder=Path(tempfile.mkdtemp())))
        ['raw', 'untrained', 'supervised']
    """
    names = [*BASELINES, *objectives, *SUPERVISED]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(seeds):
        for number, name in enumerate(names, start=1 + seed * len(names)):
            place = folder / f"{name}-{seed}"
            run = (comparison, seed, place, f"{number}/{seeds * len(names)} {name}, seed {seed}")
            settings = vars(comparison) | {"seed": seed, "probes": [GALLERY_PER_PICTURE, TEST_PER_PICTURE]}
            if name in BASELINES:
                settings["steps"] = 0
                make = partial(judge_baseline, name, comparison, seed)
            elif name in SUPERVISED:
                settings |= {"encoder": ENCODER, "schedule": SCHEDULE}
                make = partial(train_supervised, *run)
            else:
                settings |= comparison.recipe(objectives[name], seed)
                make = partial(train_objective, objectives[name], *run)
            found[name].append(kept(place, settings, make, say=tqdm.write))
    return found


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for documents.

    Example:
        >>> print(markdown_table(["name", "share"], [["a", "1 %"]]), end="")
        | name | share |
        | --- | --- |
        | a | 1 % |
    """
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rows))


__all__ = [
    "BASELINES",
    "SUPERVISED",
    "Comparison",
    "compare",
    "judge",
    "judge_baseline",
    "markdown_table",
    "said_in",
    "train_objective",
    "train_supervised",
]
