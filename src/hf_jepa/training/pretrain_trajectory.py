"""The program behind the scripts of world models: recipe and trajectories in, trained checkpoint out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers.utils import logging

from hf_jepa.registry import VARIANTS, Variant
from hf_jepa.training.pretraining import StartArguments, continue_model
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.trajectory import TrajectoryTrainer
from hf_jepa.training.trajectory_arguments import TrajectoryTrainingArguments
from hf_jepa.training.trajectory_data import TrajectoryData, TrajectoryDataArguments


logger = logging.get_logger(__name__)

MEASURED = 2048  # trajectories of which levels above a world model measure their macro-actions


@dataclass(kw_only=True)
class WorldModelArguments(StartArguments):
    """The model of a run: a checkpoint to continue, a fresh predictor on a trained encoder, or all of it fresh.

    Of a checkpoint that is continued, `model_config` changes what its weights do not depend on, such as
    `frames_per_clip`.
    """

    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint that a fresh model is built on: a V-JEPA 2 for V-JEPA 2-AC, a world model for H-JEPA."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.model_name_or_path and self.encoder_name_or_path:
            raise ValueError(
                f"{self.model_name_or_path} brings its own encoder: leave out encoder_name_or_path="
                f"{self.encoder_name_or_path}"
            )
        if self.encoder_name_or_path and self.model_size:
            raise ValueError(f"{self.encoder_name_or_path} has a size: leave out model_size={self.model_size}")

    def part(self) -> str | None:
        return self.encoder_name_or_path

    def build(self, variant: Variant) -> nn.Module:
        """The model in float32.

        Raises:
            ValueError: an unknown field, a checkpoint that lacks weights, an encoder for a variant that takes none.
        """
        if self.model_name_or_path:
            if self.model_size:
                logger.warning(f"{self.model_name_or_path} has a size: model_size {self.model_size} is not used")
            return continue_model(variant, self.model_name_or_path, self.model_config or {})
        if not self.encoder_name_or_path:
            return variant.model_class()(self.fresh_config(variant))
        if not hasattr(variant.model_class(), "from_encoder"):
            raise ValueError(f"encoder_name_or_path: {variant.title} trains an encoder of its own")
        return variant.model_class().from_encoder(self.encoder_name_or_path, **(self.model_config or {}))


def pretrain(
    variant_name: str, argv: Sequence[str], description: str | None = None, prog: str | None = None
) -> TrajectoryTrainer:
    """Run a recipe.

    Args:
        variant_name: key of `VARIANTS`, a world model.
        argv: `[recipe.yaml] [--field value ...]`, fields of `WorldModelArguments`, `TrajectoryDataArguments` and
            `TrajectoryTrainingArguments`.
        description, prog: for `--help`, see `parse_recipe`.

    Returns:
        the trainer, after training and saving.

    Raises:
        ValueError: as the parts do.
    """
    types = (WorldModelArguments, TrajectoryDataArguments, TrajectoryTrainingArguments)
    arguments, data, training = parse_recipe(types, argv, description, prog)
    begin(training)
    with whole_models(training):
        model = arguments.build(VARIANTS[variant_name])
    opened = data.open(model.config, arguments.model_name_or_path, training.seed)
    card = dataset_names(data.dataset) | arguments.model_card()  # whose errors come before the training
    trainer = TrajectoryTrainer(
        model,
        training,
        train_dataset=opened.train,
        eval_dataset=opened.test,
        data_collator=opened.collator,
        processing_class=opened.processor,
    )
    run_training(trainer, given_fields(types, argv))
    if hasattr(model, "fit_macro_actions"):
        model.fit_macro_actions(some_actions(opened, training.per_device_train_batch_size))
    if opened.test is not None:
        trainer.evaluate()
    finish(trainer, card)
    return trainer


def some_actions(data: TrajectoryData, batch_size: int) -> Iterator[torch.Tensor]:
    """The actions of the first `MEASURED` training trajectories, (B, T - 1, A) each: the same in every process."""
    count = min(MEASURED, len(data.train))
    batches = DataLoader(Subset(data.train, range(count)), batch_size, collate_fn=data.collator)
    return (batch["actions"] for batch in batches)


__all__ = ["WorldModelArguments", "pretrain"]
