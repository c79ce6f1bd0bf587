"""`VLJepaTrainer`: what learns how fast, batches of negatives, exact resumes, evaluation, what is saved."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vl_pairs import collate, draw_pairs, make_model, make_trainer
from torch.utils.data import SequentialSampler
from trained_weights import largest_difference, weights
from transformers import TrainerCallback

from hf_jepa.evaluation.retrieval import retrieval_recalls
from hf_jepa.training.vision_language import VLJepaTrainer
from hf_jepa.training.vision_language_arguments import VLJepaTrainingArguments


def trained(*args, **kwargs) -> VLJepaTrainer:
    trainer = make_trainer(*args, **kwargs)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    trainer.train()
    return trainer


def history(trainer: VLJepaTrainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# --- what learns how fast -----------------------------------------------------------------------------------------


def rates_and_decays(trainer: VLJepaTrainer) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> learning rate and weight decay in the optimizer."""
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    found = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


def test_the_text_encoder_learns_slower_and_only_matrices_decay(tmp_path):
    defaults = {"text_lr_multiplier": 0.05, "learning_rate": 1e-3, "weight_decay": 0.1, "optim": "adamw_torch_fused"}
    trainer = make_trainer(tmp_path, draw_pairs(8), **defaults)
    found = rates_and_decays(trainer)
    assert set(found) == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, (rate, decay) in found.items():
        slow = name.startswith("vl_jepa.text_model.")
        assert rate == pytest.approx(5e-5 if slow else 1e-3), name
        vector = name.endswith(("bias", "logit_scale")) or "norm" in name.lower()
        assert decay == (0.0 if vector else 0.1), name
    parts = {name.split(".")[1] for name in found}
    assert parts == {"predictor", "text_model", "text_projection", "logit_scale"}  # not what is frozen
    assert not any("embed_tokens" in name for name in found if "predictor" in name)


def test_the_schedule_keeps_the_multiplier(tmp_path):
    options = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "max_steps": 6, "text_lr_multiplier": 0.05}
    trainer, seen = make_trainer(tmp_path, draw_pairs(8), **options), []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    trainer.add_callback(Look())
    trainer.train()
    full = [max(rates) for rates in seen]
    assert full[0] == 0 and full[2] == pytest.approx(0.1) and full[-1] < full[3] < full[2]
    assert all(min(rates) == pytest.approx(0.05 * max(rates)) for rates in seen)


def test_frozen_parts_stay_in_evaluation_and_as_they_were(tmp_path):
    trainer = make_trainer(tmp_path, draw_pairs(8))
    before, modes = weights(trainer.model), []
    trainer.model.vl_jepa.vision_model.register_forward_hook(lambda module, *_: modes.append(module.training))
    trainer.train()
    assert modes and not any(modes) and trainer.model.vl_jepa.text_model.training
    for name, value in weights(trainer.model).items():
        frozen = name.startswith("vl_jepa.vision_model.") or "language_model.embed_tokens" in name
        assert torch.equal(value, before[name]) == frozen or "position_ids" in name, name


def test_the_scale_stays_below_its_largest_value(tmp_path):
    fields = {"logit_scale_init": 1.0, "logit_scale_max": 1.01}
    free = trained(tmp_path, draw_pairs(8), {"logit_scale_init": 1.0}, max_steps=6)
    clamped = trained(tmp_path, draw_pairs(8), fields, max_steps=6)
    assert free.model.vl_jepa.logit_scale.item() > 1.02
    assert clamped.model.vl_jepa.logit_scale.item() == pytest.approx(1.01)
    assert history(clamped, "logit_scale")[-1] == pytest.approx(math.exp(1.01))


# --- batches of negatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"mask_duplicates": True}, {"freeze_vision": False}])
def test_cached_accumulation_is_one_large_batch(fields, tmp_path):
    pairs = draw_pairs(24, texts=20)
    at_once = trained(tmp_path, pairs, fields, per_device_train_batch_size=8)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    cached = trained(tmp_path, pairs, fields, cached_infonce=True, **options)
    plain = trained(tmp_path, pairs, fields, **options)
    expected = weights(at_once.model)
    assert largest_difference(weights(cached.model), expected) < 2e-6
    assert largest_difference(weights(plain.model), expected) > 1e-4  # accumulation alone adds no negatives
    assert history(cached) == pytest.approx(history(at_once), abs=1e-5)
    assert history(cached, "accuracy") == pytest.approx(history(at_once, "accuracy"))
    found = [trainer.summary()["negatives of a pair"] for trainer in (at_once, cached, plain)]
    assert found == [7, 7, 1]


def test_regularised_batches_are_cached_as_well(tmp_path):
    fields = {"loss_type": "cosine", "regularization_type": "sigreg", "gather_negatives": False}
    pairs = draw_pairs(16)
    at_once = trained(tmp_path, pairs, fields, per_device_train_batch_size=8, max_steps=2)
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2}
    cached = trained(tmp_path, pairs, fields, cached_infonce=True, **options)
    assert largest_difference(weights(cached.model), weights(at_once.model)) < 2e-6
    assert history(cached, "regularization_loss") == pytest.approx(history(at_once, "regularization_loss"), abs=1e-5)


def test_a_frozen_vision_encoder_runs_once_for_both_passes(tmp_path):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainer = make_trainer(tmp_path, draw_pairs(8), cached_infonce=True, **options)
    calls = {"vision_model": 0, "text_model": 0}
    for name in calls:
        module = getattr(trainer.model.vl_jepa, name)
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    trainer.train()
    assert calls == {"vision_model": 4, "text_model": 8}


def test_dropout_is_the_same_in_both_passes(tmp_path):
    fields = {"text_config": {"hidden_dropout_prob": 0.3}}
    trainer = make_trainer(
        tmp_path, draw_pairs(8), fields, cached_infonce=True, gradient_accumulation_steps=2, max_steps=1
    )
    seen = []
    trainer.model.vl_jepa.text_model.register_forward_hook(lambda *found: seen.append(found[-1].last_hidden_state))
    trainer.train()
    assert len(seen) == 4
    for first, second in zip(seen[:2], seen[2:], strict=True):
        assert torch.equal(first.detach(), second.detach())
    with torch.no_grad():
        batch = collate(draw_pairs(8)[:4])
        texts = {"target_ids": batch["target_ids"], "target_mask": batch["target_mask"]}
        assert not torch.equal(*(trainer.model.vl_jepa.encode_text(**texts) for _ in range(2)))


def test_settings_without_effect_are_refused(tmp_path, caplog):
    with pytest.raises(ValueError, match="text_lr_multiplier=0.0 must be above 0: set freeze_text"):
        VLJepaTrainingArguments(str(tmp_path), text_lr_multiplier=0.0, use_cpu=True)
    with pytest.raises(ValueError, match="cached_infonce needs gradient_accumulation_steps above 1"):
        make_trainer(tmp_path, draw_pairs(8), cached_infonce=True)
    with pytest.raises(ValueError, match="its loss is 0 in batches of one"):
        make_trainer(tmp_path, draw_pairs(8), per_device_train_batch_size=1)
    with pytest.raises(ValueError, match="save_vision=false: the vision encoder is trained"):
        make_trainer(tmp_path, draw_pairs(8), {"freeze_vision": False}, save_vision=False)


class Epochs(list):
    """Pairs that remember which epochs they were told."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.told = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)


def test_the_data_are_told_their_epoch(tmp_path):
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3}
    pairs = Epochs(draw_pairs(8))
    make_trainer(tmp_path, pairs, **options).train()
    assert list(dict.fromkeys(pairs.told)) == [0, 1, 2]
    again = Epochs(draw_pairs(8))  # in the middle of the second, of which the loader tells nothing
    make_trainer(tmp_path, again, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert list(dict.fromkeys(again.told))[-2:] == [1, 2] and 1 in again.told


# --- samples that cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_what_cannot_be_read_weighs_nothing(cached, tmp_path):
    pairs, options = draw_pairs(8), {"max_steps": 1, "gradient_accumulation_steps": 2, "cached_infonce": cached}
    broken = [*pairs[:3], "a.mp4: damaged", *["b.mp4: damaged"] * 4]  # the second batch is blank
    found = trained(tmp_path, broken, **options)
    expected = trained(tmp_path, pairs[:3], max_steps=1, per_device_train_batch_size=3)
    assert largest_difference(weights(found.model), weights(expected.model)) < 2e-6
    assert list(found.skipped) == ["a.mp4: damaged", "b.mp4: damaged"]


def test_a_step_of_which_nothing_can_be_read_changes_nothing(tmp_path):
    pairs = [*["a.mp4: damaged"] * 8, *draw_pairs(8)]
    options = {"gradient_accumulation_steps": 2, "cached_infonce": True, "max_steps": 1}
    trainer = make_trainer(tmp_path, pairs, **options)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    before = weights(trainer.model)
    with pytest.raises(ValueError, match="none of the first 8 pairs can be read"):
        trainer.train()
    assert largest_difference(weights(trainer.model), before) == 0.0


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_evaluation_ranks_all_pairs(tmp_path):
    pairs = draw_pairs(11, seed=3, texts=9)
    broken = [*pairs[:5], "a.mp4: damaged", *pairs[5:]]
    trainer = make_trainer(tmp_path, draw_pairs(8), eval_dataset=broken, per_device_eval_batch_size=4)
    measured = trainer.evaluate()
    model = trainer.model.eval()
    batch = {name: value for name, value in collate(pairs).items() if name not in ("skipped", "sample_index")}
    with torch.no_grad():
        out = model(**batch)
    cosines = torch.nn.functional.cosine_similarity(out.predictions[:, None], out.targets[None], dim=-1)
    group = batch["target_group"]
    expected = retrieval_recalls(cosines, group, group)
    for way, recalls in expected.items():
        for name, value in recalls.items():
            assert measured[f"eval_{way}_{name}"] == pytest.approx(value, abs=1e-6)
    assert 0 < measured["eval_video_to_text_R@5"] < 1 and math.isfinite(measured["eval_loss"])
    assert list(trainer.skipped) == ["a.mp4: damaged"]


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_is_resumed_exactly(cached, tmp_path):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "cached_infonce": cached}
    options |= {"max_steps": 6, "optim": "adamw_torch_fused", "learning_rate": 1e-3, "save_strategy": "steps"}
    options |= {"save_steps": 2, "lr_scheduler_type": "cosine"}
    fields = {"text_config": {"hidden_dropout_prob": 0.2}}
    whole = make_trainer(tmp_path / "whole", draw_pairs(10), fields, **options)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", draw_pairs(10), fields, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert history(resumed) == history(whole) and len(history(whole)) == 6
    assert largest_difference(weights(resumed.model), weights(whole.model)) == 0.0


def test_a_frozen_vision_encoder_may_be_left_out_of_the_files(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "save_vision": False, "max_steps": 4}
    whole = make_trainer(tmp_path / "whole", draw_pairs(8), **options)
    whole.train()
    whole.save_model(str(tmp_path / "end"))
    stored = load_file(tmp_path / "end/model.safetensors")
    left_out = weights(whole.model).keys() - stored.keys()
    assert left_out and all(name.startswith("vl_jepa.vision_model.") for name in left_out)
    resumed = make_trainer(tmp_path / "resumed", draw_pairs(8), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert largest_difference(weights(resumed.model), weights(whole.model)) == 0.0


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer = make_trainer(
        tmp_path, draw_pairs(8), save_strategy="steps", save_steps=2, max_steps=2, save_vision=False
    )
    trainer.train()
    again = make_trainer(tmp_path / "again", draw_pairs(8))  # which needs the vision encoder
    with pytest.raises(ValueError, match="the checkpoint is one of another model"):
        again._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    file = tmp_path / "checkpoint-2/model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "text_projection" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"2 weights of this one are not in it.*text_projection"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))


def test_the_card_and_the_settings_say_what_was_trained(tmp_path):
    trainer = trained(tmp_path, draw_pairs(8), max_steps=2)
    details, settings = trainer.card_details(), trainer.run_settings()
    assert details["facts"]["Negatives of a pair"] == "3" and "accuracy" in details["facts"]["At the end"]
    assert settings["arguments"]["text_lr_multiplier"] == 0.5 and settings["batch_size"] == 4


def test_nothing_to_train_is_refused(tmp_path):
    model = make_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="has no trainable parameter"):
        make_trainer(tmp_path, draw_pairs(8), model=model).create_optimizer()
