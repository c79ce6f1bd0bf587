"""How every training program begins and ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainingArguments, set_seed
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)


def begin(training: TrainingArguments) -> None:
    """Readable logs from the first process, and the seed."""
    logging.basicConfig(level=logging.INFO if training.should_log else logging.WARNING)
    set_seed(training.seed)


@contextmanager
def whole_models(training: TrainingArguments) -> Iterator[None]:
    """While a model is made: whole in every process, also where ZeRO-3 would cut it up at once.

    Weights that are drawn part by part are others than those of a run without ZeRO-3, and parts that a checkpoint
    lacks are copied from whole ones; cut up later, by the engine, all are the same.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    # From a file of DeepSpeed's own (--deepspeed), or from Accelerate.
    config = getattr(training, "hf_deepspeed_config", None) or training.deepspeed_plugin.dschf
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def resume_point(training: TrainingArguments) -> str | bool | None:
    """What `--resume_from_checkpoint` asks for: a folder, True for the last complete checkpoint, or "auto".

    "auto" also starts a run that has no checkpoint yet, so that one command serves for a job that is queued again.

    Example:
        >>> resume_point(TrainingArguments(output_dir="runs/example", resume_from_checkpoint="true", use_cpu=True))
        True
    """
    asked = training.resume_from_checkpoint
    return {"true": True, "last": True, "false": None, "no": None}.get(str(asked).lower(), asked)


def run_training(trainer: Trainer, recipe: dict[str, Any]) -> None:
    """Train, from where it is asked for.

    Args:
        trainer: ready to train, with a `recipe` for its card.
        recipe: the fields that the run was started with.
    """
    trainer.recipe = recipe
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))


def finish(trainer: Trainer, card: dict[str, str | None]) -> None:
    """Save the model, the trainer's state and the card, upload them where asked to, and leave together.

    Args:
        trainer: after training.
        card: arguments of `trainer.create_model_card`.
    """
    trainer.save_state()
    if trainer.args.push_to_hub:
        print(f"uploaded: {trainer.push_to_hub(**card)}")  # saves the model and writes the card first
    else:
        trainer.save_model()
        trainer.create_model_card(**card)
    leave_together(trainer)


def leave_together(trainer: Trainer) -> None:
    """End the process group, in all processes: nothing that needs the others can follow."""
    # A process that leaves while another still writes takes the whole group down with it.
    trainer.accelerator.wait_for_everyone()
    # DDP keeps the process group alive, whose threads can abort a process that shuts down while they work.
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()


__all__ = ["begin", "finish", "leave_together", "resume_point", "run_training", "whole_models"]
