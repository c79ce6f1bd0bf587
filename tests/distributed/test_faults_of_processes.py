"""Something goes wrong in one of two processes: both do the same about it, and nothing hangs."""

import json
from pathlib import Path

import forks
import pytest
import torch
from fault_processes import ends_early, not_finite, out_of_memory, raises, stalls

from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.nonfinite import load_nonfinite_step, restore_random_state
from hf_jepa.training.watchdog import STALLED


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the processes found, what they printed, and how they ended."""
    folder, codes = tmp_path_factory.mktemp("faults"), {}
    for case in (not_finite, ends_early, raises, out_of_memory, stalls):
        (folder / case.__name__).mkdir()
        started = forks.start(case, folder / case.__name__, logs=folder, own_store=case is out_of_memory)
        if case is raises:  # of which the other one stays until it is killed
            codes[case.__name__] = forks.statuses(started[:1], timeout=60)
            started[1].kill()
        else:
            codes[case.__name__] = forks.statuses(started, timeout=60)
    (folder / "ended.json").write_text(json.dumps(codes))
    return folder


def found(folder: Path) -> list[dict]:
    return [json.loads((folder / f"not_finite/found-{rank}.json").read_text()) for rank in range(2)]


def state(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"not_finite/{name}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize(("name", "hand"), [("skipped", "hand"), ("accumulated", "hand accumulated")])
def test_a_step_with_nan_in_one_process_is_left_out_by_both(folder, name, hand):
    """Weights, target encoder and optimizer are to the last bit those of a run whose step 3 was undone by hand."""
    for rank in range(2):
        one, other = state(folder, name, rank), state(folder, hand, rank)
        assert len(one) > 200 and one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
        assert one["0.step"] == 5
    assert [each[name]["steps"] for each in found(folder)] == [[3], [3]]


@pytest.mark.parametrize(("name", "hand"), [("skipped", "hand"), ("accumulated", "hand accumulated")])
def test_schedules_go_on_and_losses_are_means_of_the_other_steps(folder, name, hand):
    log, expected = (found(folder)[0][each]["log"] for each in (name, hand))
    for key in ("learning_rate", "momentum"):
        assert [entry[key] for entry in log] == [entry[key] for entry in expected]
    # Steps 1 and 2, 3 and 4, 5 and 6: by hand, the loss of step 3 counts.
    assert log[0]["loss"] == expected[0]["loss"] and log[2]["loss"] == expected[2]["loss"]
    assert 0.2 < log[1]["loss"] < 1 and log[1]["loss"] != expected[1]["loss"]
    assert [entry.get("nonfinite_at") for entry in log] == [None, "3", None]


def test_too_many_in_a_row_end_both_with_a_report(folder):
    stopped = [each["stopped"] for each in found(folder)]
    assert [each["steps"] for each in stopped] == [[2, 4, 5, 6]] * 2  # not at 4, which is not in a row with 2
    assert stopped[0]["error"] == stopped[1]["error"]
    error = stopped[0]["error"]
    assert "3 steps in a row, up to step 6, is NaN or infinite" in error and "learning rate 1e-06" in error
    assert "rank 0, batch 0: all is finite" in error
    assert "rank 1, batch 0: inputs: pixel_values; loss terms: loss nan, prediction_loss nan; modules: contex" in error
    assert "gradients: predictor.proj.bias" in error


def test_the_batches_that_were_kept_make_the_nan_again(folder):
    kept = folder / "not_finite/stopped/nonfinite-step-6"
    model = IJepaForPreTraining.from_pretrained(kept / "model").train()
    for rank, finite in ((0, True), (1, False)):
        step = load_nonfinite_step(kept, rank)
        assert step.step == 6 and f"samples {step.sample_index[0].tolist()}" in found(folder)[0]["stopped"]["error"]
        restore_random_state(step.random)
        assert bool(model(**step.inputs[0]).loss.isfinite()) == finite
    with pytest.raises(FileNotFoundError, match="has no rank-2.json"):
        load_nonfinite_step(kept, rank=2)


def ended(folder: Path, case: str) -> tuple[list[int | None], str, str]:
    logs = [(folder / f"{case}-{rank}.log").read_text() for rank in range(2)]
    return json.loads((folder / "ended.json").read_text())[case], *logs


def test_a_process_with_fewer_batches_is_named(folder):
    """13 rows, of which each process takes its share of 8, against 400."""
    codes, first, second = ended(folder, "ends_early")
    assert all(code not in (0, None) for code in codes)
    assert "RuntimeError: the processes of this run do not make the same number of steps" in second
    assert "rank 1 finished its data after step 2\nrank 0 is in step 3, without progress" in second
    assert "rank 1 finished its data after step 2" in first or "rank 1, after step 2, raised RuntimeError" in first


def test_a_process_that_raised_and_stays_is_named(folder):
    (code,), first, second = ended(folder, "raises")
    assert code == STALLED
    assert "rank 1, after step 3, raised ValueError: no such image" in first
    assert "rank 0 is in step 4, without progress" in first and "(most recent call first)" in first
    assert "rank 1, after step 3, raised ValueError: no such image" in second


def test_a_process_without_memory_is_named(folder):
    codes, first, second = ended(folder, "out_of_memory")
    assert all(code not in (0, None) for code in codes)
    assert "OutOfMemoryError: out of memory in step 4 of rank 0" in first
    assert "per_device_train_batch_size=2 gradient_accumulation_steps=4" in first
    assert "rank 1, after step 3, raised" in second or "is gone" in second


def test_processes_that_stall_say_where(folder):
    codes, first, second = ended(folder, "stalls")
    assert all(code not in (0, None) for code in codes) and STALLED in codes
    reports = [log for log in (first, second) if "this process is ended" in log]
    assert reports and all("in step 4, without progress for" in log for log in reports)
    assert any("never_returns (fault_processes.py:" in log for log in reports)
