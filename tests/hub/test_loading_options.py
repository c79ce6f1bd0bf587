"""What people pass to from_pretrained: a folder within a folder, a type, a device map, shards, no network."""

import socket

import pytest
import torch
from code_cache import code_cache  # noqa: F401
from huggingface_hub import constants
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa.hub.export import export_remote_code
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


def tiny(variant):
    torch.manual_seed(0)
    return variant.model_class()(variant.config_class()(**variant.tiny)).eval()


def same(first, second) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1, with a network that fails who uses it all the same."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *address: pytest.fail(f"connected to {address}"))


@pytest.mark.parametrize("name", VARIANTS)
def test_shards_in_a_folder_within_a_folder_load_without_a_network(name, tmp_path, offline):
    variant = VARIANTS[name]
    model = tiny(variant)
    model.save_pretrained(tmp_path / "models" / "tiny", max_shard_size="20KB")
    assert len(list((tmp_path / "models" / "tiny").glob("model-*.safetensors"))) > 1
    again = variant.model_class().from_pretrained(tmp_path, subfolder="models/tiny", device_map="cpu")
    assert same(again, model) and {p.device.type for p in again.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_type_is_that_of_all_that_may_be_of_16_bits(name, tmp_path):
    variant = VARIANTS[name]
    model = tiny(variant)
    model.save_pretrained(tmp_path)
    again = variant.model_class().from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = tuple(f"{part}." for part in again._keep_in_fp32_modules_strict or ())
    for key, value in again.named_parameters():
        wide = key.startswith(kept)
        expected = model.get_parameter(key) if wide else model.get_parameter(key).to(torch.bfloat16)
        assert torch.equal(value, expected) and value.dtype == expected.dtype, key
    encoder = variant.base_class().from_pretrained(tmp_path, dtype=torch.float16, device_map="cpu")
    assert {p.dtype for p in encoder.parameters()} == {torch.float16}


def test_exported_code_takes_the_same_options(tmp_path, offline):
    variant = VARIANTS["vjepa"]
    model = tiny(variant)
    model.save_pretrained(tmp_path / "package", max_shard_size="20KB")
    export_remote_code(tmp_path / "package", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    options = {"trust_remote_code": True, "device_map": "cpu", "dtype": torch.float32}
    assert same(AutoModelForPreTraining.from_pretrained(tmp_path / "out", **options), model)
    half = AutoModel.from_pretrained(tmp_path / "out", **(options | {"dtype": torch.bfloat16}))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
