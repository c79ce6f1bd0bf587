"""Checkpoints are whole or absent, the newest whole one is found, and a full disk takes none that is there."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.training import checkpoint_folders
from hf_jepa.training.checkpoint_folders import (
    MANIFEST,
    STAGING,
    clear_staging,
    fault_of,
    file_sizes,
    move_up,
    put_in_place,
    read_manifest,
    rotate,
    write_manifest,
)
from hf_jepa.training.preemption import PreemptionMixin


SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "logging_steps": 4, "collapse_monitor": False}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir())


def folder_of(path: Path, text: str = "weights", manifest: bool = True) -> Path:
    """A checkpoint for those who only look at files."""
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}")
    (path / "model.safetensors").write_text(text)
    if manifest:
        write_manifest(path, {}, [file_sizes(path)])
    return path


def test_checkpoints_are_listed_by_their_numbers_the_newest_first(tmp_path):
    for name in ("checkpoint-20", "checkpoint-100", "checkpoint-9", "checkpoint-9-old", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-300").write_text("no folder")
    listed = [path.name for path in checkpoint_folders.checkpoint_folders(tmp_path)]
    assert listed == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]


@pytest.fixture
def run(tmp_path, tmp_path_factory, make_trainer):
    """The output folder of a run with checkpoints after 2, 4 and 6 steps, which is trained only once."""
    made = tmp_path_factory.getbasetemp() / "three_checkpoints"
    if not made.exists():
        make_trainer(**SAVES).train()
        shutil.copytree(tmp_path / "run", made)
    return shutil.copytree(made, tmp_path / "run", dirs_exist_ok=True)


def test_the_newest_complete_checkpoint_is_resumed_and_others_named(run, make_trainer, caplog, monkeypatch):
    started = []
    monkeypatch.setattr(PreemptionMixin, "train", lambda self, folder, *args: started.append(folder))
    make_trainer(**SAVES).train(resume_from_checkpoint=True)
    weights = run / "checkpoint-6/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (run / "checkpoint-4/optimizer.pt").unlink()
    folder_of(run / STAGING / "checkpoint-8", manifest=False)  # half-written
    make_trainer(**SAVES).train(resume_from_checkpoint=True)
    assert started == [str(run / "checkpoint-6"), str(run / "checkpoint-2")]
    assert "checkpoint-6 is left out, it is not complete: model.safetensors has " in caplog.text
    assert "checkpoint-4 is left out, it is not complete: optimizer.pt is missing" in caplog.text
    assert not (run / STAGING).exists()
    with pytest.raises(ValueError, match=r"run/checkpoint-6 is no checkpoint to resume from: model.saf"):
        make_trainer(**SAVES).train(resume_from_checkpoint=str(run / "checkpoint-6"))
    (run / "checkpoint-2" / MANIFEST).write_text("{")
    for asked in (True, "auto"):
        with pytest.raises(ValueError, match="none of 3 checkpoints there is complete"):
            make_trainer(**SAVES).train(resume_from_checkpoint=asked)
    make_trainer(**SAVES).train()
    assert started[2:] == [None] and "holds 3 checkpoints of an earlier run" in caplog.text
    shutil.rmtree(run)
    with pytest.raises(ValueError, match="there is no checkpoint there"):
        make_trainer(**SAVES).train(resume_from_checkpoint=True)
    make_trainer(**SAVES).train(resume_from_checkpoint="auto")
    assert started[3:] == [None]


def test_a_checkpoint_at_or_beyond_the_last_step_is_told(run, make_trainer, caplog, monkeypatch):
    monkeypatch.setattr(PreemptionMixin, "train", lambda self, folder, *args: None)
    for steps, told in ((7, 0), (6, 1), (5, 2)):
        make_trainer(**(SAVES | {"max_steps": steps})).train(resume_from_checkpoint=True)
        assert caplog.text.count("nothing is left to train") == told
    assert "checkpoint-6 is of step 6 and max_steps is 5" in caplog.text


def test_all_processes_must_find_a_checkpoint_complete(run, make_trainer, monkeypatch):
    def with_another(found):
        return [*found, {"checkpoint-2": None, "checkpoint-4": "optimizer.pt is missing"}]

    trainer = make_trainer(**SAVES)
    monkeypatch.setattr("hf_jepa.training.checkpoints.gather_object", with_another)
    assert trainer._resume_folder(True) == str(run / "checkpoint-2")


def test_a_checkpoint_of_an_earlier_version_is_resumed(run, make_trainer, caplog):
    (run / "checkpoint-6" / MANIFEST).unlink()
    (run / "checkpoint-4" / MANIFEST).unlink()
    (run / "checkpoint-4/trainer_state.json").unlink()
    trainer = make_trainer(**(SAVES | {"max_steps": 7}))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 7 and caplog.text.count("is of an earlier version") == 1
    assert fault_of(run / "checkpoint-4") == "trainer_state.json is missing"
    (run / "checkpoint-6/model.safetensors").unlink()
    assert fault_of(run / "checkpoint-6") == "it holds no weights"


def test_the_loss_that_was_not_logged_is_part_of_the_next_log(make_trainer, tmp_path):
    options = SAVES | {"max_steps": 9}
    whole = make_trainer("whole", **options)
    whole.train()
    resumed = make_trainer("resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-6"))
    logged = [[e["loss"] for e in each.state.log_history if "loss" in e] for each in (whole, resumed)]
    assert logged[0] == logged[1] and len(logged[0]) == 2


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"engine": "ZeRO-3"}, "saved by ZeRO-3, and one process or DDP cannot read", ""),
        ({"world_size": 2}, "", "1 processes instead of 2: random states"),
        ({"batch_size": 16}, "", "a step takes 8 samples instead of 16"),
        ({"only_model": True, "engine": "ZeRO-1"}, "", "the optimizer starts afresh"),
        ({}, "", ""),
    ],
)
def test_what_cannot_be_as_it_was_is_said(run, make_trainer, caplog, changed, error, told):
    path = run / "checkpoint-4" / MANIFEST
    path.write_text(json.dumps(read_manifest(path.parent) | changed))
    trainer = make_trainer(**SAVES)
    if error:
        with pytest.raises(ValueError, match=error):
            trainer._tell_differences(str(path.parent))
    else:
        trainer._tell_differences(str(path.parent))
        assert told in caplog.text and ("resumed with differences" in caplog.text) == bool(told)


def test_zero_does_not_resume_on_another_number_of_processes(run, make_trainer, monkeypatch):
    path = run / "checkpoint-4" / MANIFEST
    path.write_text(json.dumps(read_manifest(path.parent) | {"engine": "ZeRO-1", "world_size": 4}))
    trainer = make_trainer(**SAVES)
    monkeypatch.setattr(trainer, "_engine", lambda: "ZeRO-1")
    with pytest.raises(ValueError, match="saved by 4 processes: DeepSpeed cannot cut up its optimizer states"):
        trainer.train(resume_from_checkpoint=str(path.parent))


# --- a full disk -----------------------------------------------------------------------------------------------------


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("torch", "save"),
        ("transformers.modeling_utils", "safe_save_file"),
        ("hf_jepa.training.checkpoints", "write_manifest"),
        ("hf_jepa.training.checkpoints", "fresh_folder"),
    ],
)
def test_a_full_disk_takes_no_other_checkpoint_and_the_third_time_ends_the_run(
    make_trainer, tmp_path, monkeypatch, caplog, owner, name
):
    class FullAfter4(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                monkeypatch.setattr(f"{owner}.{name}", full)

    trainer = make_trainer(**(SAVES | {"max_steps": 20, "save_total_limit": 1}), callbacks=[FullAfter4()])
    with pytest.raises(OSError, match=r"checkpoint-8 could not .*No space left on device. 3 checkpoints in a row"):
        trainer.train()
    assert trainer.state.global_step == 8 and caplog.text.count("training goes on to the next save") == 2
    assert names(tmp_path / "run") == ["checkpoint-2"]
    assert fault_of(tmp_path / "run/checkpoint-2") is None


def test_one_process_without_room_stops_the_save_of_all(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(**SAVES)
    gather = "hf_jepa.training.checkpoints.gather_object"
    monkeypatch.setattr(gather, lambda found: [*found, "process 1: OSError"] if found == [] else found)
    trainer.train_dataset = EmbeddedCrops(64)
    with pytest.raises(OSError, match="3 checkpoints in a row"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_mistakes_are_no_full_disk(make_trainer, monkeypatch):
    def mistake(*args, **kwargs):
        raise RuntimeError("a tensor of the wrong shape")

    trainer = make_trainer(**SAVES)
    monkeypatch.setattr(torch, "save", mistake)
    with pytest.raises(RuntimeError, match="wrong shape"):
        trainer.train()


@pytest.mark.parametrize("room", [60, 300, 570])  # KiB beside one checkpoint: another file fails each time
def test_a_disk_that_is_really_full(make_trainer, tmp_path, caplog, room):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = 588  # KiB, of a checkpoint
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + room}k", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("disks cannot be mounted here")
    try:
        trainer = make_trainer(**(SAVES | {"max_steps": 4, "output_dir": str(disk / "run")}))
        trainer.train()
        assert names(disk / "run") == ["checkpoint-2"] and fault_of(disk / "run/checkpoint-2") is None
        assert caplog.text.count("checkpoint-4 could not be written") == 1 and trainer.state.global_step == 4
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- names and places ------------------------------------------------------------------------------------------------


def test_rotation_counts_complete_checkpoints_and_keeps_the_best(tmp_path):
    for step in (2, 4, 6, 8):
        path = folder_of(tmp_path / f"checkpoint-{step}")
        os.utime(path, (step, step))
    (tmp_path / "checkpoint-8/model.safetensors").unlink()
    rotate(tmp_path, None, [])
    assert len(names(tmp_path)) == 4
    rotate(tmp_path, 2, [tmp_path / "checkpoint-2"])
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]
    rotate(tmp_path, 1, [tmp_path / "checkpoint-6"])
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]


def test_the_best_checkpoint_has_its_final_name_and_stays(make_trainer, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
    trainer = make_trainer(**(SAVES | options), eval_dataset=EmbeddedCrops(8))
    measured = iter((1.0, 2.0, 3.0))
    trainer.evaluate = lambda *args, **kwargs: {"eval_loss": next(measured, 4.0)}
    trainer.train()
    best = str(tmp_path / "run/checkpoint-2")
    assert trainer.state.best_model_checkpoint == best and names(tmp_path / "run") == ["checkpoint-2"]
    assert json.loads((tmp_path / "run/checkpoint-2/trainer_state.json").read_text())["best_model_checkpoint"] == best


def test_an_existing_checkpoint_is_replaced_whenever_the_process_dies(tmp_path, monkeypatch):
    """After every renaming or removal there is the old checkpoint or the new one, or the next start brings it."""
    for moments in range(4):
        run = tmp_path / str(moments)
        folder_of(run / "checkpoint-2", "old")
        staged = folder_of(run / STAGING / "checkpoint-2", "new one")
        left = iter([None] * moments)

        def dying(original, left=left):
            def act(*args):
                if next(left, "dead") == "dead":
                    raise KeyboardInterrupt
                return original(*args)

            return act

        with monkeypatch.context() as context:
            context.setattr(Path, "rename", dying(Path.rename))
            context.setattr(shutil, "rmtree", dying(shutil.rmtree))
            try:
                put_in_place(staged, run / "checkpoint-2")
            except KeyboardInterrupt:
                clean = False
            else:
                clean = True
        assert clean == (moments == 3)
        clear_staging(run)
        assert names(run) == ["checkpoint-2"] and fault_of(run / "checkpoint-2") is None
        text = (run / "checkpoint-2/model.safetensors").read_text()
        assert text == ("old" if moments == 0 else "new one")


def test_files_of_other_nodes_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_folders, "PATIENCE", 0.0)
    folder = folder_of(tmp_path / "checkpoint-2", manifest=False)
    with pytest.raises(OSError, match="rng_state_3.pth, which another node wrote, is not in .*save_on_each_node"):
        write_manifest(folder, {}, [file_sizes(folder), {"rng_state_3.pth": 10}])
    write_manifest(folder, {}, [file_sizes(folder) | {"model.safetensors": 0}, file_sizes(folder)])
    assert fault_of(folder) is None


def test_uploads_see_the_final_name(make_trainer, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, path: seen.append((path, fault_of(path))))
    trainer = make_trainer(**(SAVES | {"max_steps": 2}))
    trainer.args.push_to_hub = True
    trainer.train()
    assert seen == [(str(tmp_path / "run/checkpoint-2"), None)]


def test_a_model_that_cannot_be_saved_leaves_the_one_before(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    trainer.save_model()
    run = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert {"model.safetensors", "config.json", "run.json"} <= set(before)
    with torch.no_grad():
        trainer.model.predictor.mask_token.add_(1.0)
    with monkeypatch.context() as context:
        context.setattr(torch, "save", full)
        with pytest.raises(OSError):
            trainer.save_model()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    trainer.save_model()
    assert (run / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert not (run / STAGING).exists()


def test_shards_do_not_stay_beside_the_file_that_takes_their_place(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "fingerprint.json"):
        (tmp_path / name).write_text("old")
    staged = tmp_path / STAGING / "model"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_text("new")
    move_up(staged, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fingerprint.json", "model.safetensors"]
