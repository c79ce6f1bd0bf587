"""A run that is asked to leave saves, says so by its status, and goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import threading

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.training import preemption
from hf_jepa.training.checkpoint_folders import checkpoint_folders
from hf_jepa.training.preemption import EXIT_STATUS, MARKER, SIGNALS, Preempted, _LeaveRequest
from hf_jepa.training.pretrain_image import pretrain
from hf_jepa.training.trainer import JepaTrainer


class Ask(TrainerCallback):
    """What a scheduler does in the middle of a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_asked_to_leave_saves_and_goes_on(make_trainer, tmp_path, number):
    options = {"max_steps": 6, "logging_steps": 2}
    whole = make_trainer("whole", **options)
    whole.train()
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Preempted) as left:
        make_trainer(**options, callbacks=[Ask(3, number)]).train()
    assert (left.value.step, left.value.code) == (3, EXIT_STATUS)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert (tmp_path / "run" / MARKER).read_text() == "3\n"
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint="auto")
    assert not (tmp_path / "run" / MARKER).exists()
    losses = [[e["loss"] for e in each.state.log_history if "loss" in e] for each in (whole, resumed)]
    assert losses[0] == losses[1]
    for value, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(value, expected)


def test_a_run_in_its_last_step_ends_as_usual(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=3, callbacks=[Ask(3)])
    assert trainer.train().global_step == 3
    assert not (tmp_path / "run" / MARKER).exists()


def test_nothing_is_measured_loaded_or_removed_when_leaving(make_trainer, tmp_path):
    """The time until the machine is taken away is short, and the checkpoint of this moment is the one to keep."""
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    options |= {"load_best_model_at_end": True, "save_total_limit": 1, "max_steps": 8}
    trainer = make_trainer(**options, eval_dataset=EmbeddedCrops(8), callbacks=[Ask(4)])
    steps = []
    trainer.evaluate = lambda *args, **kwargs: steps.append(trainer.state.global_step) or {"eval_loss": 1.0}
    with pytest.raises(Preempted):
        trainer.train()
    assert steps == [2]
    assert [path.name for path in checkpoint_folders(tmp_path / "run")] == ["checkpoint-4", "checkpoint-2"]


def test_a_second_signal_kills_unless_it_comes_with_the_first(monkeypatch):
    now, killed = [100.0], []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(preemption.os, "kill", lambda pid, number: killed.append((pid, number)))
    with _LeaveRequest() as request:
        assert not request.received
        for later in (0.0, 1.0, 3.0):  # the launcher passes on what the scheduler has sent to all
            now[0] += later
            request._receive(signal.SIGTERM, None)
            assert request.received and not killed
        now[0] += 2.0
        request._receive(signal.SIGTERM, None)
        assert killed == [(os.getpid(), signal.SIGTERM)] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_workers_of_the_loader_heed_their_parent_alone():
    with _LeaveRequest():
        loader = iter(DataLoader(EmbeddedCrops(64), batch_size=2, num_workers=1, prefetch_factor=1))
        next(loader)
        (worker,) = loader._workers
        for number in SIGNALS:
            subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
        assert sum(1 for _ in loader) == 31 and worker.is_alive() is False  # all of it came; the loader ended it
        loader = iter(DataLoader(EmbeddedCrops(64), batch_size=2, num_workers=1))
        next(loader)
        (worker,) = loader._workers
        worker.terminate()
        worker.join(timeout=20)
        assert worker.exitcode == 0


def test_other_threads_can_train(make_trainer):
    trainer = make_trainer(max_steps=1)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1


def test_the_trainers_own_way_is_refused(make_trainer):
    with pytest.raises(ValueError, match="enable_jit_checkpoint: leave it out"):
        make_trainer(enable_jit_checkpoint=True)


def test_a_program_that_is_asked_to_leave_ends_with_the_status_and_no_model(config_fields, tmp_path, monkeypatch):
    step = JepaTrainer.training_step

    def asked(trainer, *args, **kwargs):
        if trainer.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(JepaTrainer, "training_step", asked)
    recipe = {"dataset": "embedded", "model_config": json.dumps(config_fields), "output_dir": str(tmp_path / "out")}
    recipe |= {"per_device_train_batch_size": "4", "min_keep": "3", "max_steps": "4", "use_cpu": "true"}
    recipe |= {"resume_from_checkpoint": "auto", "report_to": "none", "disable_tqdm": "true"}
    arguments = [part for name, value in recipe.items() for part in (f"--{name}", value)]
    with pytest.raises(SystemExit) as left:
        pretrain("ijepa", arguments)
    assert left.value.code == EXIT_STATUS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARKER, "checkpoint-2"]
    monkeypatch.setattr(JepaTrainer, "training_step", step)
    pretrain("ijepa", arguments)
    assert {"model.safetensors", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out/trainer_state.json").read_text())["global_step"] == 4
