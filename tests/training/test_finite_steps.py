"""Steps with a loss or gradient of NaN or infinity are left out, in one process."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_jepa.core.ema import Average
from hf_jepa.data.images import ImageCollator
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.finite_steps import FiniteStepMixin, _Watch, leave_out
from hf_jepa.training.large_batch import Lars
from hf_jepa.training.nonfinite import load_nonfinite_step


class Spoil(TrainerCallback):
    """Makes the loss of some steps (from 1) infinite, or a gradient, where the loss stays as it is."""

    def __init__(self, steps: set[int], gradient: bool = False):
        self.steps, self.gradient = steps, gradient

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.state = state
        if self.gradient:
            weight = model.predictor.layers[0].mlp.fc1.weight
            weight.register_hook(lambda grad: grad * float("inf") if self.now else grad)
        else:
            model.register_forward_hook(self._spoil)

    @property
    def now(self) -> bool:
        return self.state.global_step + 1 in self.steps

    def _spoil(self, model, args, output):
        if self.now and model.training:
            output.loss = output.loss + float("inf")  # whose gradient is finite
        return output


class Spy(TrainerCallback):
    """Weights, target encoder and moments after every step."""

    def __init__(self):
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        found = {name: value.clone() for name, value in model.state_dict().items()}
        for number, each in enumerate(optimizer.state.values()):
            found |= {f"{number}.{name}": value.clone() for name, value in each.items()}
        self.seen.append(found)


def unchanged(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd"])
def test_a_step_that_is_not_finite_changes_nothing(make_trainer, optimizer, gradient):
    spy = Spy()
    trainer = make_trainer(
        optimizer=optimizer, max_steps=5, logging_steps=1, callbacks=[Spoil({3}, gradient), spy], max_grad_norm=1.0
    )
    trainer.train()
    assert [unchanged(*pair) for pair in pairwise(spy.seen)] == [False, True, False, False]
    log = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    assert trainer.state.global_step == 5 and trainer.nonfinite_steps == [3]
    assert ["loss" in entry for entry in log] == [True, True, False, True, True]
    assert log[2]["nonfinite_steps"] == 1 and log[2]["nonfinite_at"] == "3" and "nonfinite_at" not in log[3]
    rates = [entry["learning_rate"] for entry in log]
    plain = make_trainer("plain", optimizer=optimizer, max_steps=5, logging_steps=1)
    plain.create_optimizer()
    schedule = plain.create_scheduler(5).lr_lambdas[0]
    assert rates == pytest.approx([1e-3 * schedule(step) for step in range(5)])
    assert json.loads(json.dumps(trainer.state.log_history, allow_nan=False))
    text = "1 with a loss or gradient of NaN or infinity: 3"
    assert trainer.summary()["steps left out"] == text and trainer._run_facts()["Steps left out"] == text


def test_finite_runs_do_not_notice(make_trainer, monkeypatch):
    """The factor of the loss is 1 to the last bit, whatever the loss."""
    assert torch.equal(1 + 0 * torch.tensor([-5.0, 3e38, 1e-45, 0.0]), torch.ones(4))
    spy = Spy()
    trainer = make_trainer(max_steps=3, logging_steps=1, callbacks=[spy])
    trainer.train()
    assert "steps left out" not in trainer.summary() and trainer.nonfinite_steps == []
    for name in ("compute_loss", "_get_grad_norm"):  # as the Trainer does it
        monkeypatch.delattr(FiniteStepMixin, name)
    other = Spy()
    make_trainer("other", max_steps=3, logging_steps=1, callbacks=[other]).train()
    assert all(unchanged(*pair) for pair in zip(spy.seen, other.seen, strict=True))


def test_logged_losses_are_means_of_the_steps_that_count(make_trainer):
    every = make_trainer("every", max_steps=4, logging_steps=1, callbacks=[Spoil({2})])
    every.train()
    losses = [entry["loss"] for entry in every.state.log_history if "loss" in entry]
    trainer = make_trainer("window", max_steps=4, logging_steps=4, callbacks=[Spoil({2})])
    result = trainer.train()
    (logged,) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert len(losses) == 3 and logged == pytest.approx(sum(losses) / 3)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(logged)
    assert result.global_step == 4


class NotANumber(ImageCollator):
    def __call__(self, samples):
        batch = super().__call__(samples)
        batch["pixel_values"][:] = float("nan")
        return batch


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_several_in_a_row_stop_with_the_batch(make_trainer, limit, tmp_path):
    trainer = make_trainer(max_steps=8, max_nonfinite_steps=limit, gradient_accumulation_steps=2)
    trainer.data_collator = NotANumber()
    steps = max(1, limit)
    with pytest.raises(FloatingPointError, match=f"of {steps} steps in a row, up to step {steps}, is NaN") as error:
        trainer.train()
    for part in ("batch 1: inputs: pixel_values; loss terms: loss nan", "modules: context_encoder.embeddings.patch"):
        assert part in str(error.value)
    kept = load_nonfinite_step(tmp_path / f"run/nonfinite-step-{steps}")
    assert len(kept.inputs) == 2 and kept.inputs[0]["pixel_values"].isnan().all()
    assert sorted(kept.inputs[1]) == ["context_mask", "pixel_values", "step", "target_mask"]
    assert kept.found[0]["inputs"] == ["pixel_values"] and kept.sample_index[1].shape == (8,)
    assert (tmp_path / f"run/nonfinite-step-{steps}/model/model.safetensors").is_file()


def test_a_run_of_nothing_else_fails(make_trainer):
    trainer = make_trainer(max_steps=3)
    trainer.data_collator = NotANumber()
    with pytest.raises(FloatingPointError, match="of the last 3 of 3 steps is NaN or infinite"):
        trainer.train()


def test_a_resumed_run_remembers(make_trainer):
    options = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 5}
    make_trainer(max_steps=4, callbacks=[Spoil({2})], **options).train()
    resumed = make_trainer(max_steps=5, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.nonfinite_steps == [2]


def test_statistics_of_batch_normalisation_stay():
    """Of a model that has them; through the watch of a trainer that has nothing else."""
    norm = nn.BatchNorm1d(3)
    optimizer = torch.optim.SGD(norm.parameters(), 0.1)
    accelerator = SimpleNamespace(unwrap_model=lambda model: model, scaler=None)
    state = SimpleNamespace(global_step=0, stateful_callbacks={})
    args = SimpleNamespace(device=torch.device("cpu"))
    trainer = SimpleNamespace(
        model=norm, accelerator=accelerator, optimizer=optimizer, is_deepspeed_enabled=False, state=state, args=args
    )
    watch = _Watch(trainer)
    watch.on_train_begin(args, state, None)
    for bad in (False, True):
        trainer._tr_loss = torch.tensor(2.0)
        watch.on_step_begin(args, state, None)
        before = [buffer.clone() for buffer in norm.buffers()]
        norm(torch.full((4, 3), float("nan") if bad else 2.0))
        trainer._tr_loss += float("nan") if bad else 1.0
        watch.decide(torch.tensor(float("nan") if bad else 1.0))
        assert all(torch.equal(*pair) for pair in zip(before, norm.buffers(), strict=True)) == bad
        assert trainer._tr_loss == (2.0 if bad else 3.0)


class OnDevice:
    """A tensor that says it is on a GPU, so that nobody may read it on the host."""

    device = torch.device("cuda")

    def __bool__(self):
        raise AssertionError("the host waits for the device")


def test_fused_optimizers_are_told_on_the_device():
    found, weight = OnDevice(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=True)
    leave_out(optimizer, found)
    assert optimizer.found_inf is found
    for value in (0.0, 1.0, 0.0):
        weight.grad = torch.full((2,), torch.nan if value else 1.0)
        optimizer.found_inf = torch.tensor(value)
        optimizer.step()
    assert weight.isfinite().all() and optimizer.state[weight]["step"] == 2


@pytest.mark.parametrize("optimizer", [Lars, torch.optim.SGD])
def test_other_optimizers_lose_their_gradients(optimizer):
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = optimizer([weight], lr=0.1, momentum=0.9)
    for value in (0.0, 1.0):
        weight.grad = torch.full((2, 2), torch.nan if value else 1.0)
        before = weight.detach().clone()
        leave_out(optimizer, torch.tensor(value))
        optimizer.step()
        assert torch.equal(weight, before) == bool(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fused", "by tensor"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_target_encoder_moves_or_not_without_being_read(dtype, momentum):
    target, source, expected = nn.Linear(3, 2), nn.Linear(3, 2, dtype=dtype), nn.Linear(3, 2)
    expected.load_state_dict(target.state_dict())
    average = Average(target, source)
    average(momentum, torch.tensor(1.0))
    assert torch.equal(target.weight, expected.weight)
    average(momentum, torch.tensor(0.0))
    Average(expected, source)(momentum)
    assert not torch.equal(target.weight, source.weight) or momentum == 0 or dtype == torch.float64
    assert torch.equal(target.weight, expected.weight) and torch.equal(target.bias, expected.bias)


def test_a_negative_number_is_refused(tmp_path):
    for name in ("max_nonfinite_steps", "stall_timeout"):
        with pytest.raises(ValueError, match=f"{name}=-1 must not be negative"):
            JepaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: -1})
