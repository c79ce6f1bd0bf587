"""Every engine trains with the numbers of a single process: context encoder, target encoder and predictor."""

from importlib.util import find_spec
from pathlib import Path

import forks
import pytest
import torch
from engine_processes import (
    DATASETS,
    RUNS,
    SAVED,
    batch_rows,
    evaluations,
    fresh_model,
    kind_of,
    losses_of_a_batch,
    make,
    train_under_engines,
    weights,
)

from hf_jepa.hub.fingerprint import differences, load_target_encoder
from hf_jepa.registry import VARIANTS


pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]  # a minute on an idle machine
EXACT = 2e-7
ROUNDED = 5e-3  # bf16: other sizes of batches are other roundings; measured 1e-3


def available(name: str) -> bool:
    return "zero" not in name or find_spec("deepspeed") is not None


def runs(*names: str):
    """Marks of a test that takes runs one by one."""
    missing = pytest.mark.skip(reason='pip install "hf_jepa[deepspeed]"')
    return [pytest.param(name, marks=[] if available(name) else [missing]) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes made of all runs."""
    folder = tmp_path_factory.mktemp("engines")
    fresh_model("ijepa").save_pretrained(folder / "start")
    print(forks.run(train_under_engines, folder, logs=folder, timeout=800))
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same runs in this process; those that differ by their engine alone are one."""
    known: dict[tuple, tuple[dict[str, torch.Tensor], list[float]]] = {}

    def of(name: str) -> tuple[dict[str, torch.Tensor], list[float]]:
        variant, _, arguments = RUNS[name]
        key = variant, DATASETS.get(kind_of(name)), *sorted(arguments.items())
        if key not in known:
            trainer = make(name, tmp_path_factory.mktemp("single"))
            trainer.train()
            known[key] = weights(trainer), losses(trainer.state.log_history)
        return known[key]

    return of


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def found(folder: Path, name: str, rank: int = 0) -> dict:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


def farthest(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert some.keys() == others.keys()
    return max(((some[name].double() - others[name].double()).abs().max().item(), name) for name in others)


@pytest.mark.parametrize("name", runs(*(name for name in RUNS if "bf16" not in name)))
def test_the_weights_are_those_of_a_single_process(folder, single, name):
    first, second = (found(folder, name, rank) for rank in (0, 1))
    expected, logged = single(name)
    assert farthest(first["weights"], second["weights"])[0] == 0.0
    assert farthest(first["weights"], expected) < (EXACT, "")
    assert first["log"] == pytest.approx(logged, abs=1e-6)


def test_a_run_moves_all_of_them_far_enough_to_tell(single):
    for name in ("ddp", "ddp-video", "ddp-text"):
        trained, start = single(name)[0], fresh_model(RUNS[name][0])
        for part in (start.context_encoder, start.target_encoder, start.predictor):
            names = {id(p): key for key, p in start.named_parameters()}
            moved = [(trained[names[id(p)]] - p).abs().max().item() for p in part.parameters()]
            assert max(moved) > 1000 * EXACT, name


@pytest.mark.parametrize("name", runs(*(name for name in RUNS if "bf16" in name)))
def test_bf16_is_autocast_over_float32(folder, single, name):
    """The target encoder too, which otherwise would not move; and the numbers are those of autocast under DDP."""
    first, second = (found(folder, name, rank) for rank in (0, 1))
    assert {tensor.dtype for tensor in first["weights"].values()} == {torch.float32}
    assert farthest(first["weights"], second["weights"])[0] == 0.0
    assert farthest(first["weights"], single(name)[0]) < (ROUNDED, "")
    assert farthest(first["weights"], single("ddp")[0]) > (1e-4, "")  # it did compute in 16 bits
    assert farthest(first["weights"], found(folder, "bf16-ddp")["weights"]) < (EXACT, "")


def test_a_process_without_rows_is_not_seen_in_losses_over_the_batch(folder):
    expected = losses_of_a_batch(batch_rows())
    first, second = (torch.load(folder / f"absent-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("mean", "sigreg", "vicreg"):
        torch.testing.assert_close(first[name], expected[name], rtol=0, atol=1e-6)
    # Over two processes, of whose gradients data parallelism takes the mean.
    torch.testing.assert_close(first["gradient"] / 2, expected["gradient"], rtol=0, atol=1e-6)
    assert not second["gradient"].any()


def test_two_processes_measure_what_one_does(folder, tmp_path):
    """Ten images in batches of four leave the second process nothing but filling in its last one."""
    alone = evaluations(make("ddp", tmp_path))
    assert alone[0] == pytest.approx(alone[1], rel=1e-6)
    for rank in (0, 1):
        assert torch.load(folder / f"evaluated-{rank}.pt", weights_only=True) == pytest.approx(alone, rel=1e-6)


@pytest.mark.skipif(not available("zero"), reason='pip install "hf_jepa[deepspeed]"')
def test_a_target_encoder_in_16_bits_is_refused(folder):
    for rank in (0, 1):
        assert "stores the target encoder in 16 bits" in (folder / f"refused-{rank}.txt").read_text()


@pytest.mark.parametrize("name", runs(*SAVED))
def test_what_is_saved_loads_in_one_process(folder, name):
    model_class = VARIANTS[RUNS[name][0]].model_class()
    loaded = model_class.from_pretrained(folder / name)
    whole = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    assert farthest(whole, found(folder, name)["weights"]) == (0.0, max(whole))
    assert differences(load_target_encoder(VARIANTS["ijepa"], folder / name), folder / name) == []
    assert "Fingerprint" in (folder / name / "README.md").read_text()
