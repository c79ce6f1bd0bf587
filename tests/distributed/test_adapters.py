"""Continued pretraining with LoRA adapters gives the weights of a single process under every engine."""

from importlib.util import find_spec
from pathlib import Path

import forks
import pytest
import torch
from adapter_processes import RUNS, save_starts, train, train_adapters
from safetensors.torch import load_file

from hf_jepa.registry import VARIANTS


pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason='pip install "hf_jepa[deepspeed]"'),
]


def largest_difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[name].double() - wanted[name].double()).abs().max()) for name in wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The results of two processes, and of one for each variant and number of accumulated batches."""
    folder = tmp_path_factory.mktemp("adapters")
    save_starts(folder)
    print(forks.run(train_adapters, folder, logs=folder))
    return folder


@pytest.fixture(scope="module")
def single(folder):
    """The run of a single process that has the same batches."""
    made = {}

    def result(name: str):
        variant, _, arguments = RUNS[name]
        key = variant, str(arguments)
        if key not in made:
            made[key] = train(name, folder)
        return made[key]

    return result


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(name, folder, single):
    first, second = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert largest_difference(first["weights"], second["weights"]) == 0.0
    wanted = single(name)
    tolerance = 2e-7 if "bf16" not in name else 3e-3
    for kind in ("weights", "merged"):
        assert largest_difference(first[kind], wanted[kind]) <= tolerance, kind
    assert first["log"] == pytest.approx(wanted["log"], abs=1e-6 if "bf16" not in name else 1e-3)
    assert any("lora_" in key for key in first["weights"]) and not any("lora_" in key for key in first["merged"])


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("fsdp2")])
def test_an_ordinary_checkpoint_is_saved(name, folder):
    merged = load_file(folder / f"{name}-2/model.safetensors")
    found = torch.load(folder / f"{name}-0.pt", weights_only=True)["merged"]
    assert all(torch.equal(value, found[key]) for key, value in merged.items())
    variant = VARIANTS[RUNS[name][0]]
    model = variant.model_class().from_pretrained(folder / f"{name}-2")
    assert all(torch.equal(value, merged[key]) for key, value in model.state_dict().items())
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["ddp", "zero3", "fsdp2"])
def test_the_target_is_the_average_of_what_it_followed(name, folder):
    """Not of the base weights alone: adapters that are large from the start have drawn it off them."""
    start = load_file(folder / "start-ijepa/model.safetensors")
    end = torch.load(folder / f"{name}-0.pt", weights_only=True)["merged"]
    key = "layers.0.mlp.fc1.weight"
    before, after, followed = start[f"ijepa.{key}"], end[f"ijepa.{key}"], end[f"context_encoder.{key}"]
    assert torch.equal(before, start[f"context_encoder.{key}"])
    # Momenta 0.9 to 0.95 over six steps leave 0.6, and the followed weights moved little meanwhile.
    torch.testing.assert_close(after, before + 0.4 * (followed - before), rtol=0.1, atol=0.01)
    assert (followed - before).abs().max() > 0.2
