"""The tiny recipes of all objectives for images run through the program, and what they leave can be used."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel

from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_image import pretrain


CONFIGS = Path(__file__).resolve().parents[2] / "training_scripts/configs"
IMAGE = [name for name, variant in VARIANTS.items() if variant.modality == "image"]
QUICK = ["--max_steps", "2", "--warmup_steps", "1", "--use_cpu", "true", "--logging_steps", "1"]
QUICK += ["--per_device_train_batch_size", "4", "--disable_tqdm", "true"]


@pytest.mark.parametrize("name", IMAGE)
def test_tiny_recipe_runs(name, tmp_path):
    recipe = CONFIGS / name / "tiny.yaml"
    trainer = pretrain(name, [str(recipe), *QUICK, "--output_dir", str(tmp_path)])
    assert (
        trainer.state.global_step == 2 and trainer.model.config.model_type == VARIANTS[name].config_class().model_type
    )
    assert all(entry["verdict"] in ("healthy", "shrinking") for entry in trainer.state.log_history if "loss" in entry)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    state = encoder.state_dict()
    assert not info["missing_keys"]
    assert all(torch.equal(value, state[key]) for key, value in trainer.model.feature_encoder.state_dict().items())


@pytest.mark.parametrize("name", ["lejepa", "vicreg"])
def test_views_of_files(name, tmp_path):
    """Crops are taken from decoded files, augmented, normalised as the processor says; broken files are skipped."""
    for i in range(6):
        Image.effect_noise((60 + i, 50), 40 + 20 * i).convert("RGB").save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    options = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--max_steps", "3"]
    trainer = pretrain(name, [str(CONFIGS / name / "tiny.yaml"), *QUICK, *options])
    assert [Path(file.split(":")[0]).name for file in trainer.skipped] == ["broken.png"]
    mean = trainer.view_augmentation.mean.flatten().tolist()
    assert mean == pytest.approx(list(trainer.processing_class.image_mean))
