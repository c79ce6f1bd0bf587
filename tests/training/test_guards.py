"""Runs that would end with nothing of use stop, say why, and leave what was good."""

import re

import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageDataset
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.guards import _FiniteWeights, not_finite
from hf_jepa.training.pretrain_image import pretrain


class _SpoilWeights(TrainerCallback):
    """What an optimizer step of a finite gradient can do, such as a division by a tiny moment."""

    def __init__(self, at: int):
        self.at = at

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.at:
            model.context_encoder.layers[0].mlp.fc1.weight.data[0] = float("inf")


def test_weights_of_nan_stop_with_the_step(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4, logging_steps=1)
    with torch.no_grad():
        trainer.model.predictor.mask_token.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="weights are NaN or infinite at step 1, among them pred.*: lower"):
        trainer.train()
    assert not list(tmp_path.rglob("model.safetensors"))


def test_infinity_is_no_better_than_nan(make_trainer):
    trainer = make_trainer()
    with pytest.raises(FloatingPointError, match="the loss is inf at step 0"):
        trainer.log({"loss": float("inf")})
    trainer.model.predictor.mask_token.data[..., 0] = float("inf")
    assert not_finite(trainer.model) == ["predictor.mask_token"]


def test_weights_of_nan_are_never_saved(make_trainer, tmp_path):
    spoil = [_SpoilWeights(at=6)]
    trainer = make_trainer("run", max_steps=8, logging_steps=100, save_strategy="steps", save_steps=3, callbacks=spoil)
    with pytest.raises(FloatingPointError, match=r"weights are NaN or infinite after step 6, among them context_enc"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = make_trainer("run", max_steps=5, logging_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5


def test_weights_of_nan_are_not_saved_at_the_end_of_an_epoch(make_trainer, tmp_path):
    options = {"max_steps": -1, "num_train_epochs": 2, "logging_steps": 100, "save_strategy": "epoch"}
    trainer = make_trainer(callbacks=[_SpoilWeights(at=8)], **options)
    with pytest.raises(FloatingPointError, match="after step 8"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_one_process_with_such_weights_stops_all(make_trainer, monkeypatch):
    monkeypatch.setattr("hf_jepa.training.guards.gather_object", lambda names: [*names, "other.weight"])
    trainer = make_trainer()
    with pytest.raises(FloatingPointError, match="among them other.weight"):
        _FiniteWeights(trainer).on_train_end(trainer.args, trainer.state, trainer.control)


def test_weights_of_nan_do_not_end_a_run_well(make_trainer):
    trainer = make_trainer(max_steps=4, logging_steps=100, callbacks=[_SpoilWeights(at=4)])
    with pytest.raises(FloatingPointError, match="after step 4"):
        trainer.train()


def test_data_that_does_not_fill_a_batch_is_refused(make_trainer):
    trainer = make_trainer(dataset=EmbeddedCrops(7))
    with pytest.raises(ValueError, match="7 training samples do not fill one batch of 8: lower per_device_train_b"):
        trainer.train()


@pytest.mark.parametrize("batch", [1, 8])
def test_data_of_which_nothing_can_be_read_is_refused(make_trainer, batch):
    rows = [{"image": b"no image"}] * 40
    trainer = make_trainer(dataset=ImageDataset(rows, pretraining_transform(48)), per_device_train_batch_size=batch)
    with pytest.raises(ValueError, match=r"none of the first (20|24) images can be read:\nrow \d+: the content is no"):
        trainer.train()


def test_after_one_that_can_be_read_any_number_may_be_skipped(make_trainer):
    rows = [{"image": Image.new("RGB", (50, 50))}] + [{"image": b"no image"}] * 25
    dataset = ImageDataset(rows, pretraining_transform(48))
    trainer = make_trainer()
    for index in range(len(rows)):
        trainer.take_skipped(trainer.data_collator([dataset[index]]))
    assert len(trainer.skipped) == 25


def test_a_blank_batch_moves_nothing(make_trainer):
    rows = [{"image": b"no image"}, {"image": Image.new("RGB", (50, 50), "red")}]
    dataset = ImageDataset(rows, pretraining_transform(48))
    trainer = make_trainer(dataset=dataset, per_device_train_batch_size=1)
    trainer.create_optimizer()
    model = trainer.model.train()
    for index, moves in ((0, False), (1, True)):
        batch = trainer.data_collator([dataset[index]])
        model.zero_grad()
        loss = trainer.compute_loss(model, trainer._complete(batch))
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients and any(gradient.any() for gradient in gradients) == moves
        assert bool(loss) == moves


@pytest.mark.parametrize("grid", [(3, 12), (4, 4)])
def test_masks_of_another_grid_are_refused(make_trainer, grid):
    trainer = make_trainer()
    trainer.mask_sampler = MultiBlockMaskSampler(grid, min_keep=1)
    message = f"masks are drawn on a grid of {grid} tokens, but the images are (6, 6) tokens"
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train()


def test_callbacks_of_the_user_see_the_target_encoder_of_the_step(make_trainer):
    class Spy(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append(model.target_encoder.layers[0].mlp.fc1.weight.detach().clone())

    seen = []
    trainer = make_trainer(max_steps=1, start_momentum=0.5, callbacks=[Spy()])
    before = trainer.model.target_encoder.layers[0].mlp.fc1.weight.detach().clone()
    trainer.train()
    assert not torch.equal(seen[0], before)
    assert torch.equal(seen[0], trainer.model.target_encoder.layers[0].mlp.fc1.weight)


def test_a_card_that_cannot_be_read_stops_a_run_before_it_trains(config_fields, tmp_path):
    start, output = tmp_path / "start", tmp_path / "out"
    IJepaForPreTraining(IJepaConfig(**config_fields)).save_pretrained(start)
    (start / "README.md").write_text("---\nlicense: [\n---\n")
    recipe = ["--dataset", "embedded", "--model_name_or_path", str(start), "--output_dir", str(output), "--use_cpu"]
    with pytest.raises(ValueError, match="the head of .*README.md is not valid YAML"):
        pretrain("ijepa", [*recipe, "true", "--min_keep", "3", "--max_steps", "1"])
