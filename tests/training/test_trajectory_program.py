"""The program of world models: recipes and trajectories in, checkpoints out."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_weights import largest_difference, weights
from trajectory_folders import write_droid, write_lerobot
from transformers import AutoModel

from hf_jepa.cli.checkpoints import Embedder
from hf_jepa.core.world_model import WorldModel
from hf_jepa.hub.fingerprint import differences, load_target_encoder
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_trajectory import pretrain
from hf_jepa.training.trajectory import TrajectoryTrainer
from hf_jepa.training.trajectory_data import TrajectoryDataArguments


RECIPES = Path(__file__).resolve().parents[2] / "training_scripts/configs"
SMALL = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "warmup_steps": 0}
SMALL |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}


def run(variant: str, output: Any, *recipe: str, **named: Any) -> TrajectoryTrainer:
    """The program for two steps of four trajectories."""
    words = [str(RECIPES / variant / name) for name in recipe]
    for name, value in (SMALL | {"output_dir": output} | named).items():
        if isinstance(value, list):
            words += [f"--{name}", *value]
        else:
            words.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return pretrain(variant, words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The tiny recipe of V-JEPA 2-AC, two steps of it."""
    folder = tmp_path_factory.mktemp("world") / "run"
    run("vjepa2_ac", folder, "tiny.yaml", generated_length=8, eval_length=3, learning_rate_decay_steps=1)
    return folder


def test_the_tiny_recipe_leaves_a_world_model_with_processor_and_card(trained):
    model = AutoModel.from_pretrained(trained)
    assert isinstance(model, WorldModel) and model.config.crop_size == 64
    processor = VJepa2VideoProcessor.from_pretrained(trained)
    assert processor.size == {"shortest_edge": 64}  # whole frames
    card = (trained / "README.md").read_text()
    for text in ("gripper_scenes", "model.encode(frames, states=", "eval_rollout_loss", "pipeline_tag: robotics"):
        assert text in card
    settings = json.loads((trained / "run.json").read_text())
    assert settings["arguments"]["learning_rate_schedule"] == "linear"


def test_the_fingerprint_notices_every_part_of_a_world_model(trained):
    model = load_target_encoder(VARIANTS["vjepa2_ac"], trained)
    assert not differences(model, trained)
    parts = ("encoder.layer.0", "predictor.embeddings.action_encoder")
    for name in (*parts, "predictor.layer"):
        found = [each for each in model.state_dict() if each.startswith(name) and each.endswith("weight")]
        changed = load_target_encoder(VARIANTS["vjepa2_ac"], trained)
        changed.state_dict()[found[-1]].mul_(1.5)
        assert differences(changed, trained), found[-1]


def test_commands_of_images_and_videos_refuse_a_world_model(trained):
    with pytest.raises(ValueError, match="V-JEPA 2-AC is no encoder of images or videos alone"):
        Embedder(str(trained), Namespace())


def test_the_snippet_of_a_card_runs(trained, monkeypatch):
    code = (trained / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(trained.parent)
    exec(compile(code, "card", "exec"), {})


def test_a_checkpoint_goes_on_with_its_processor_and_other_fields(trained, tmp_path):
    processor = VJepa2VideoProcessor.from_pretrained(trained)
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path / "start")
    VJepa2ACForPreTraining.from_pretrained(trained).save_pretrained(tmp_path / "start")
    named = {"dataset": "gripper_scenes", "generated_length": 8, "fps": 4, "model_config": {"frames_per_clip": 4}}
    trainer = run("vjepa2_ac", tmp_path / "run", model_name_or_path=tmp_path / "start", **named)
    assert trainer.model.config.frames_per_clip == 4
    assert VJepa2VideoProcessor.from_pretrained(tmp_path / "run").image_mean == (0.1, 0.2, 0.3)
    pixels = trainer.train_dataset[0]["pixel_values_videos"]
    assert pixels.shape == (4, 3, 64, 64)
    before = VJepa2ACForPreTraining.from_pretrained(trained)
    assert largest_difference(weights(trainer.model.target_encoder), weights(before.target_encoder)) == 0.0
    assert largest_difference(weights(trainer.model.predictor), weights(before.predictor)) > 0.0


def test_a_predictor_is_built_on_a_trained_encoder(tmp_path):
    torch.manual_seed(0)
    fields = {"crop_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    variant = VARIANTS["vjepa2"]
    encoder = variant.model_class(variant.base_model)(variant.config_class()(**fields, frames_per_clip=4))
    encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder/README.md").write_text("---\nlicense: mit\n---\n")
    predictor = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    named = {"dataset": "gripper_scenes", "generated_length": 8, "fps": 4}
    named |= {"encoder_name_or_path": tmp_path / "encoder", "model_config": predictor | {"frames_per_clip": 4}}
    trainer = run("vjepa2_ac", tmp_path / "run", **named)
    own = encoder.encoder.state_dict()
    found = trainer.model.target_encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.items())
    assert "license: mit" in (tmp_path / "run/README.md").read_text()


def test_recorded_trajectories_train(tmp_path):
    write_droid(tmp_path / "droid", (20, 24, 10, 24), left=0)
    fields = {"crop_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields |= {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    fields |= {"frames_per_clip": 4}
    named = {"fps": 4, "model_config": fields, "per_device_train_batch_size": 3, "eval_length": 1}
    trainer = run("vjepa2_ac", tmp_path / "run", dataset=tmp_path / "droid", **named)
    assert [Path(name.partition(": ")[0]).name for name in trainer.skipped] == ["run_2"]
    assert "Trajectories that could not be read**: 1" in (tmp_path / "run/README.md").read_text()
    assert len(trainer.train_dataset) == 3 and trainer.eval_dataset.rows == range(3, 4)
    write_lerobot(tmp_path / "lerobot")
    fields |= {"action_dim": 6, "state_dim": 0}
    named |= {"model_config": fields, "fps": None, "frame_step": 3, "per_device_train_batch_size": 2}
    named.pop("fps")
    trainer = run("vjepa2_ac", tmp_path / "other", dataset=tmp_path / "lerobot", **named)
    assert trainer.train_dataset[0]["actions"].shape == (3, 6) and "states" not in trainer.train_dataset[0]


ROOMS = {"image_size": 17, "frames_per_clip": 7, "hidden_size": 12, "encoder_hidden_sizes": [4, 6, 8]}
ROOMS |= {"num_unroll_steps": 4, "inverse_dynamics_hidden_size": 10}


def test_levels_above_a_world_model_measure_their_macro_actions(tmp_path):
    rooms = {"dataset": "two_rooms", "generated_length": 16}
    run("eb_jepa", tmp_path / "flat", model_config=ROOMS, eval_length=4, **rooms)
    levels = [{"stride": 2, "macro_action_dim": 3, "macro_hidden_size": 8, "pred_hidden_size": 16}]
    named = {"encoder_name_or_path": tmp_path / "flat", "model_config": {"levels": levels, "frames_per_clip": 7}}
    trainer = run("h_jepa", tmp_path / "levels", **named, **rooms)
    level = AutoModel.from_pretrained(tmp_path / "levels").levels[0]
    torch.testing.assert_close(dict(level.named_buffers()), dict(trainer.model.h_jepa.levels[0].named_buffers()))
    assert all(buffer.abs().sum() > 0 for buffer in level.buffers())
    flat = AutoModel.from_pretrained(tmp_path / "flat")
    assert largest_difference(weights(trainer.model.h_jepa.world_model), weights(flat)) == 0.0


def test_videos_without_actions_train(tmp_path):
    fields = {"encoder_hidden_sizes": [4, 4, 6], "hidden_size": 4, "pred_hidden_size": 4, "proj_sizes": [8, 8]}
    named = {"model_size": "moving_mnist", "model_config": fields | {"frames_per_clip": 4, "num_unroll_steps": 1}}
    trainer = run(
        "eb_jepa",
        tmp_path,
        dataset="moving_digits",
        generated_length=8,
        max_steps=1,
        per_device_train_batch_size=2,
        **named,
    )
    assert "actions" not in trainer.data_collator([trainer.train_dataset[0]])
    assert trainer.state.log_history[0]["prediction_loss"] > 0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, "dataset is missing: name 'two_rooms', 'moving_digits', 'gripper_scenes', a folder, or a Hub id"),
        ({"dataset": "two_rooms"}, "two_rooms has 2 actions, the model takes action_dim=7"),
        ({"dataset": "moving_digits"}, "moving_digits has 0 actions, the model takes action_dim=7"),
        ({"dataset": "gripper_scenes"}, "give exactly one of fps and frame_step, got none"),
        ({"dataset": "/nowhere/at/all", "fps": 4}, "no such file or folder: /nowhere/at/all"),
    ],
)
def test_data_that_does_not_fit_is_refused(named, message):
    variant = VARIANTS["vjepa2_ac"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TrajectoryDataArguments(**named).open(variant.config_class()(**variant.tiny))


def test_wrong_starts_are_named(tmp_path):
    with pytest.raises(ValueError, match="a brings its own encoder: leave out encoder_name_or_path=b"):
        run("vjepa2_ac", tmp_path, model_name_or_path="a", encoder_name_or_path="b", dataset="gripper_scenes")
    with pytest.raises(ValueError, match="b has a size: leave out model_size=vit_giant"):
        run("vjepa2_ac", tmp_path, encoder_name_or_path="b", model_size="vit_giant", dataset="gripper_scenes")
    with pytest.raises(ValueError, match="EB-JEPA trains an encoder of its own"):
        run("eb_jepa", tmp_path, encoder_name_or_path="b", dataset="two_rooms")
    with pytest.raises(ValueError, match="crop='random' is not one of centre, whole"):
        TrajectoryDataArguments(crop="random")
