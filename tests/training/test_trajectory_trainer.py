"""Training of world models: schedules, terms, what cannot be read, evaluation, resume."""

import math

import pytest
import torch
from tiny_trajectories import draw, make_model, make_trainer, unreadable
from torch.utils.data import SequentialSampler
from trained_weights import largest_difference, weights
from transformers import TrainerCallback

from hf_jepa.data.trajectories import TrajectoryCollator
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining
from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments


def history(trainer: TrajectoryTrainer) -> list[dict]:
    """What was logged of steps, without times."""
    kept = ("loss", "grad_norm", "learning_rate", "prediction_loss", "rankme", "verdict")
    return [
        {name: entry[name] for name in kept if name in entry} for entry in trainer.state.log_history if "loss" in entry
    ]


class Rates(TrainerCallback):
    """Learning rate and weight decay that each step is made with."""

    def __init__(self):
        self.rates, self.decays = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.decays.append([group["weight_decay"] for group in optimizer.param_groups])


# --- optimizer and schedules ------------------------------------------------------------------------------------


def test_warm_up_stable_decay_is_that_of_the_official_code(tmp_path):
    start, peak, final, warm, cool, steps = 7.5e-5, 4.25e-4, 0.0, 3, 4, 12
    seen = Rates()
    options = {"start_learning_rate": start, "learning_rate": peak, "final_learning_rate": final}
    options |= {"warmup_steps": warm, "learning_rate_decay_steps": cool, "max_steps": steps, "optimizer": "adamw"}
    make_trainer(tmp_path, weight_decay=0.04, final_weight_decay=0.04, callbacks=[seen], **options).train()
    expected = []
    for s in range(1, steps + 1):  # the official counter begins at 1
        if s < warm:
            expected.append(start + s / warm * (peak - start))
        elif s < steps - cool:
            expected.append(peak)
        else:
            expected.append(peak + (s - (steps - cool)) / cool * (final - peak))
    assert seen.rates == pytest.approx(expected, abs=1e-12)
    assert seen.decays == [[0.04, 0.0]] * steps  # matrices, all else


def test_the_optimizer_holds_what_is_trained_and_the_rest_stays(tmp_path):
    trainer = make_trainer(tmp_path)
    before = weights(trainer.model)
    trainer.train()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    after = weights(trainer.model)
    changed = {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"predictor"} and not trainer.model.target_encoder.training


@pytest.mark.parametrize("variant", ["vjepa2_ac", "eb_jepa"])
def test_the_encoder_is_clipped_apart_from_the_rest(tmp_path, variant):
    options = {"max_steps": 1, "max_grad_norm": 1e-3}
    options |= dict.fromkeys(("learning_rate", "start_learning_rate", "final_learning_rate"), 1.0)
    trainer = make_trainer(tmp_path, variant=variant, clip_apart=True, **options)
    before = weights(trainer.model)
    trainer.train()
    encoder = {id(p) for p in trainer.model.context_encoder.parameters()}
    moved = {True: 0.0, False: 0.0}
    for name, parameter in trainer.model.named_parameters():
        moved[id(parameter) in encoder] += (parameter.detach() - before[name]).square().sum().item()
    lengths = {inside: math.sqrt(square) for inside, square in moved.items()}
    trained = any(p.requires_grad for p in trainer.model.context_encoder.parameters())
    assert lengths[False] == pytest.approx(1e-3, rel=2e-2)
    assert lengths[True] == pytest.approx(1e-3 if trained else 0.0, rel=2e-2)


# --- a step -------------------------------------------------------------------------------------------------------


def test_models_are_told_the_number_of_the_step(tmp_path, monkeypatch):
    steps, original = [], VJepa2ACForPreTraining.forward

    def forward(self, *args, step=None, **kwargs):
        steps.append(step)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(VJepa2ACForPreTraining, "forward", forward)
    from hf_jepa.core import regularization

    regularization._class_takes_step.cache_clear()
    trainer = make_trainer(tmp_path, eval_dataset=draw(make_model().config, 4, 1))
    trainer.train()
    trainer.evaluate()
    regularization._class_takes_step.cache_clear()
    assert steps == [0, 1, 2, 0]


def test_accumulated_batches_are_one_batch(tmp_path):
    whole = make_trainer(tmp_path / "whole", per_device_train_batch_size=8)
    parts = make_trainer(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    start = weights(whole.model)
    for trainer in (whole, parts):
        trainer._get_train_sampler = lambda *args, t=trainer: SequentialSampler(t.train_dataset)
        trainer.train()
    assert largest_difference(weights(parts.model), weights(whole.model)) < 1e-6
    assert largest_difference(weights(whole.model), start) > 1e-3


def test_logs_say_every_term_of_the_loss(tmp_path):
    trainer = make_trainer(tmp_path, variant="eb_jepa")
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(first["prediction_loss"] + first["regularization_loss"], rel=1e-5)
    names = {"variance_loss", "covariance_loss", "similarity_loss", "inverse_dynamics_loss", "image_share", "verdict"}
    assert names <= set(first)
    summary = trainer.summary()
    assert summary["first prediction_loss"] == first["prediction_loss"] and "advice" in summary
    facts = trainer.card_details()["facts"]
    assert "inverse_dynamics_loss" in facts["At the end"] and " of " in facts["Trained values"]


def test_targets_that_are_all_the_same_are_called_collapsed(tmp_path):
    model = make_model("eb_jepa")
    with torch.no_grad():
        model.eb_jepa.encoder.layernorm.weight.fill_(1e-4)
        model.eb_jepa.encoder.layernorm.bias.normal_()
    trainer = make_trainer(tmp_path, model=model, max_steps=1)
    trainer.train()
    assert trainer.summary()["verdict"] == "collapsed"


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named_and_weighs_nothing(tmp_path):
    model = make_model()
    good = draw(model.config, 2)
    broken = [*good[:2], unreadable(model.config, 2), unreadable(model.config, 3)]  # the second batch is empty
    found, alone = {}, {"per_device_train_batch_size": 2, "max_steps": 1}
    for name, samples, options in (
        ("broken", broken, alone | {"gradient_accumulation_steps": 2}),
        ("good", good[:2], alone),
    ):
        found[name] = trainer = make_trainer(tmp_path / name, samples, **options)
        trainer._get_train_sampler = lambda *args, t=trainer: SequentialSampler(t.train_dataset)
        trainer.train()
    assert list(found["broken"].skipped) == ["run/2: damaged", "run/3: damaged"]
    assert largest_difference(weights(found["broken"].model), weights(found["good"].model)) < 1e-7


def test_a_run_on_nothing_readable_ends(tmp_path):
    config = make_model().config
    with pytest.raises(ValueError, match=r"(?s)none of the first 12 trajectories can be read:.*run/0: damaged"):
        make_trainer(tmp_path, [unreadable(config, number) for number in range(12)]).train()


def test_wrong_settings_are_named(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match="VJepa2ACForPreTraining has no trainable parameter"):
        frozen = make_model()
        frozen.requires_grad_(False)
        make_trainer(tmp_path, model=frozen)
    with pytest.raises(ValueError, match="compute_metrics: evaluation measures the terms of the loss"):
        args = TrajectoryTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
        TrajectoryTrainer(model, args, compute_metrics=print)
    with pytest.raises(ValueError, match=r"no 'sample_index': take TrajectoryCollator"):
        trainer = make_trainer(tmp_path)
        collate = trainer.data_collator
        trainer.data_collator = lambda samples: {k: v for k, v in collate(samples).items() if k != "sample_index"}
        trainer.train()
    with pytest.raises(ValueError, match=r"clip_apart: max_grad_norm=0.0 clips nothing"):
        make_trainer(tmp_path, clip_apart=True)


# --- evaluation and checkpoints -----------------------------------------------------------------------------------


def test_evaluation_measures_what_can_be_read(tmp_path):
    model = make_model()
    samples = draw(model.config, 5, seed=1)
    broken = [*samples[:3], unreadable(model.config, 9), *samples[3:]]
    trainer = make_trainer(tmp_path, model=model, eval_dataset=broken, per_device_eval_batch_size=2)
    measured = trainer.evaluate()
    expected = {}
    for rows in (samples[:2], samples[2:3], samples[3:5]):
        batch = TrajectoryCollator()(rows)
        with torch.no_grad():
            out = model.eval()(**{k: v for k, v in batch.items() if k not in ("sample_index", "skipped")})
        for name in ("loss", "teacher_forcing_loss", "rollout_loss"):
            expected[name] = expected.get(name, 0) + len(rows) * out[name].item() / 5
    for name, value in expected.items():
        assert measured[f"eval_{name}"] == pytest.approx(value, abs=1e-6)
    assert list(trainer.skipped) == ["run/9: damaged"]
    with pytest.raises(ValueError, match="none of the evaluation trajectories can be read"):
        trainer.evaluate([unreadable(model.config, 0)])


@pytest.mark.parametrize("variant", ["vjepa2_ac", "eb_jepa"])
def test_a_run_is_resumed_exactly(variant, tmp_path):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 6}
    options |= {"optimizer": "adamw", "learning_rate": 1e-2, "final_learning_rate": 1e-4, "warmup_steps": 2}
    options |= {"save_strategy": "steps", "save_steps": 2, "weight_decay": 0.1}
    whole = make_trainer(tmp_path / "whole", 10, variant, **options)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", 10, variant, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert history(resumed) == history(whole) and len(history(whole)) == 6
    assert largest_difference(weights(resumed.model), weights(whole.model)) == 0.0
