"""Tiny runs that the training tests share."""

import pytest
import torch
from PIL import Image

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 48,
    "patch_size": 8,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "initializer_range": 0.1,
}


@pytest.fixture
def config_fields():
    """Of the model that the training tests share."""
    return dict(CONFIG)


@pytest.fixture
def make_trainer(tmp_path):
    """A trainer of a tiny I-JEPA on 64 embedded crops: 8 steps an epoch at batch 8."""

    def make(
        name="run", mode="corrected", dataset=None, model_fields=None, callbacks=None, eval_dataset=None, **arguments
    ):
        torch.manual_seed(0)
        defaults = {
            "output_dir": str(tmp_path / name),
            "per_device_train_batch_size": 8,
            "max_steps": 20,
            "warmup_steps": 3,
            "logging_steps": 2,
            "save_strategy": "no",
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        model = IJepaForPreTraining(IJepaConfig(**(CONFIG | (model_fields or {}))))
        return JepaTrainer(
            model,
            JepaTrainingArguments(**(defaults | arguments)),
            build_mask_sampler(mode, grid_size=model.config.grid_size, target_scale=(0.15, 0.25), min_keep=3),
            train_dataset=dataset or EmbeddedCrops(64),
            eval_dataset=eval_dataset,
            data_collator=ImageCollator(),
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def photos(tmp_path):
    """Two classes in train and test, and one file that is no image."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for label, level in (("dark", 60), ("light", 180)):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = (torch.randn(56, 60, 3, generator=generator) * 25 + level).clamp(0, 255).byte().numpy()
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "photos/train/dark/broken.jpg").write_bytes(b"not an image")
    return tmp_path / "photos"
