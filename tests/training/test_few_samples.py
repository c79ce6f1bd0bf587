"""Batches, and last batches, of which a single image is left, in runs of objectives that compare images."""

import pytest
import torch
from PIL import Image

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.data.view_augmentation import ViewAugmentation
from hf_jepa.data.views import MultiCrop, ViewCollator
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


@pytest.fixture
def make_run(tmp_path):
    """A trainer of a tiny model on rows of images, False for one that cannot be read, in their order."""

    def make(name: str, rows: list[bool], eval_rows: list[bool] | None = None, batch: int = 3) -> JepaTrainer:
        variant = VARIANTS[name]
        config = variant.config_class()(**variant.tiny)
        views = variant.inputs == "views"
        transform = MultiCrop(config.image_size) if views else pretraining_transform(config.image_size)

        def images(readable: list[bool] | None) -> ImageDataset | None:
            if readable is None:
                return None
            colours = ["red", "green", "blue", "white", "black", "gray", "pink"]
            good = [
                Image.linear_gradient("L").resize((50, 50)).convert("RGB"),
                *(Image.new("RGB", (50, 50), colour) for colour in colours),
            ]
            return ImageDataset([{"image": good[i] if r else b"?"} for i, r in enumerate(readable)], transform)

        torch.manual_seed(0)
        arguments = JepaTrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=batch, per_device_eval_batch_size=batch,
            train_sampling_strategy="sequential", save_strategy="no", use_cpu=True, report_to="none",
            disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        return JepaTrainer(
            variant.model_class()(config),
            arguments,
            mask_sampler=None if views else MultiBlockMaskSampler(config.grid_size, min_keep=1),
            view_augmentation=ViewAugmentation() if views else None,
            train_dataset=images(rows),
            eval_dataset=images(eval_rows),
            data_collator=ViewCollator() if views else ImageCollator(),
        )

    return make


@pytest.mark.parametrize("name", ["vicreg", "cjepa"])
def test_the_only_readable_image_of_a_batch_weighs_nothing(make_run, name):
    trainer = make_run(name, [True, True, True, True, False, False])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] != 0 and losses[1] == 0 and len(trainer.skipped) == 2


@pytest.mark.parametrize("name", ["vicreg", "cjepa"])
def test_evaluation_leaves_out_a_lone_last_image(make_run, name):
    trainer = make_run(name, [True] * 6, [True] * 4)
    all_rows = trainer.evaluate()["eval_loss"]
    trainer.eval_dataset = torch.utils.data.Subset(trainer.eval_dataset, range(3))
    assert all_rows == trainer.evaluate()["eval_loss"]


def test_a_lone_image_is_enough_where_images_are_not_compared(make_run):
    trainer = make_run("ijepa", [True, True, True, True, False, False])
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_batches_of_one_are_refused_where_images_are_compared(make_run):
    with pytest.raises(ValueError):
        make_run("vicreg", [True] * 4, batch=1).train()
