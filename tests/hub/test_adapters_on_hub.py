"""LoRA adapters of peft on our encoders and classifiers are saved, pushed and pulled as any others."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from hf_jepa.hub.torch_export import example_input
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


ENCODERS = [name for name, variant in VARIANTS.items() if variant.base_model]
HEADS = [(name, head) for name in ENCODERS for head in VARIANTS[name].heads.values()]


def base_of(name, head=None, **fields):
    """A tiny encoder or classifier."""
    torch.manual_seed(0)
    variant = VARIANTS[name]
    if name == "nepa":
        fields["layerscale_value"] = 1.0  # layers add next to nothing at the start
    config = variant.config_class()(**(variant.tiny | fields))
    return variant.model_class(head or variant.base_model)(config).eval()


def adapted(model, **options):
    """The model with adapters that change what it computes."""
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def outputs(model, inputs):
    found = model(inputs)
    return found.logits if "logits" in found else found.last_hidden_state


def require_same(pulled, trained, plain, inputs):
    """Adapters came back: the same numbers as before, which are not those of the base."""
    saved, loaded = trained.state_dict(), pulled.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(loaded[key], saved[key]) for key in saved)
    expected = outputs(trained, inputs)
    torch.testing.assert_close(outputs(pulled, inputs), expected, rtol=1e-4, atol=1e-5)  # tensors lie elsewhere
    assert not torch.allclose(outputs(plain, inputs), expected, atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_adapters_of_an_encoder_come_back(name, tmp_path):
    base_of(name).save_pretrained(tmp_path / "base")
    load = VARIANTS[name].model_class(VARIANTS[name].base_model).from_pretrained
    trained = adapted(load(tmp_path / "base"))
    trained.save_pretrained(tmp_path / "adapters")
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert not any(file.startswith("model") for file in files)
    assert all("lora_" in key for key in load_file(tmp_path / "adapters/adapter_model.safetensors"))
    pulled = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapters").eval()
    inputs = example_input(load(tmp_path / "base"))
    require_same(pulled, trained, load(tmp_path / "base"), inputs)


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_adapters_of_a_classifier_bring_its_head(name, head, tmp_path):
    fields = {"num_labels": 3, **({"pooler_num_attention_heads": 2} if "ooler" in str(VARIANTS[name].tiny) else {})}
    base_of(name, head, **fields).save_pretrained(tmp_path / "base")
    load = VARIANTS[name].model_class(head).from_pretrained
    trained = adapted(load(tmp_path / "base"), modules_to_save=["classifier"], exclude_modules=["classifier"])
    trained.save_pretrained(tmp_path / "adapters")
    pulled = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapters").eval()
    plain = load(tmp_path / "base")
    require_same(pulled, trained, plain, example_input(plain))
    assert isinstance(plain.classifier, nn.Module)
    theirs, ours = pulled.base_model.model.classifier.state_dict(), plain.classifier.state_dict()
    assert not any(torch.equal(theirs[f"modules_to_save.default.{key}"], ours[key]) for key in ours)


def test_adapters_of_another_model_are_refused(tmp_path):
    adapted(base_of("ijepa")).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(base_of("ijepa", hidden_size=48), tmp_path)


@pytest.mark.hub
def test_adapters_are_pushed_and_pulled(tmp_path):
    servers, clients = pytest.importorskip("hub_server"), pytest.importorskip("hub_client")
    with servers.HubServer() as hub, clients.connected(hub, tmp_path / "cache"):
        load = VARIANTS["ijepa"].model_class("IJepaModel").from_pretrained
        base_of("ijepa").push_to_hub("alice/base")
        trained = adapted(load("alice/base"))
        trained.push_to_hub("alice/adapters")
        assert "adapter_model.safetensors" in hub.files("alice/adapters")
        assert not any(name.startswith("model") for name in hub.files("alice/adapters"))
        pulled = PeftModel.from_pretrained(load("alice/base"), "alice/adapters").eval()
        require_same(pulled, trained, load("alice/base"), example_input(load("alice/base")))
        assert pulled.peft_config["default"].base_model_name_or_path == "alice/base"
