"""Tiny runs that the training tests share."""

import pytest
import torch
from PIL import Image
from tiny_training import CLIPS, CONFIG, QUIET, write_photos

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.data.moving_digits import MovingDigits
from hf_jepa.data.videos import VideoCollator
from hf_jepa.masking.build import build_mask_sampler, build_video_mask_sampler
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


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
            **QUIET,
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
def make_video_trainer(tmp_path):
    """A trainer of a tiny video variant on 32 clips of moving digits: 8 steps an epoch at batch 4."""

    def make(
        variant="vjepa2", name="run", mode="corrected", dataset=None, frame_counts=(4,), callbacks=None, **arguments
    ):
        torch.manual_seed(0)
        defaults = {
            "output_dir": str(tmp_path / name),
            "per_device_train_batch_size": 4,
            "max_steps": 10,
            "warmup_steps": 2,
            "logging_steps": 2,
            **QUIET,
        }
        variant = VARIANTS[variant]
        model = variant.model_class()(variant.config_class()(**(variant.tiny | CLIPS)))
        samplers = [build_video_mask_sampler(mode, grid_size=(frames // 2, 8, 8)) for frames in frame_counts]
        return JepaTrainer(
            model,
            JepaTrainingArguments(**(defaults | arguments)),
            samplers[0] if len(samplers) == 1 else MultiSequenceMaskSampler(samplers),
            train_dataset=dataset or MovingDigits(32, num_frames=4),
            data_collator=VideoCollator(frame_counts=frame_counts),
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def clip_folder(tmp_path):
    """Eight clips of 24 frames as folders of images, one that is too short, and a file that is no video."""
    generator = torch.Generator().manual_seed(0)
    for i, frames in enumerate([24] * 8 + [3]):
        folder = tmp_path / f"clips/{'short' if frames == 3 else f'clip{i}'}"
        folder.mkdir(parents=True)
        pixels = torch.randint(256, (frames, 40, 48, 3), generator=generator, dtype=torch.uint8).numpy()
        for number, frame in enumerate(pixels):
            Image.fromarray(frame).save(folder / f"{number:03}.png")
    (tmp_path / "clips/broken.mp4").write_bytes(b"not a video")
    return tmp_path / "clips"


@pytest.fixture
def photos(tmp_path):
    """Two classes in train and test, and one file that is no image."""
    return write_photos(tmp_path / "photos", {"train": 8, "test": 8}, broken=("train",))


@pytest.fixture
def labelled_photos(tmp_path):
    """Two classes that brightness tells apart, and one file in each split that is no image."""
    return write_photos(tmp_path / "photos", {"train": 12, "test": 5}, broken=("train", "test"))


@pytest.fixture
def pretrained(config_fields, tmp_path):
    """A pretraining checkpoint whose two encoders differ."""
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**config_fields))
    with torch.no_grad():
        for parameter in model.target_encoder.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"
