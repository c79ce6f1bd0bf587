"""Linear layers by oneDNN are the same function, and stand aside where they do not apply."""

import copy

import pytest
import torch
from torch import nn

from hf_jepa.layers import onednn
from hf_jepa.layers.onednn import OneDnnLinear, onednn_pays_off, use_onednn, using_onednn
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN"
)


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_equal_those_of_a_linear_layer(shape, bias):
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias)
    fast = use_onednn(copy.deepcopy(plain))
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    weights = torch.randn(*shape[:-1], 40)
    outputs = [layer(x) for layer, x in zip((plain, fast), inputs, strict=True)]
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for found, expected in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    assert "_Product" in type(outputs[1].grad_fn).__name__  # it did not stand aside


def test_a_training_step_of_a_model_is_the_same():
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny))
    fast = use_onednn(copy.deepcopy(model))
    assert all(type(m) is OneDnnLinear for m in fast.modules() if isinstance(m, nn.Linear))
    assert fast.state_dict().keys() == model.state_dict().keys()
    pixels = torch.randn(2, 3, 32, 32)
    masks = [torch.stack([torch.randperm(64)[:9] for _ in range(2)]) for _ in range(2)]
    for net in (model, fast):
        net(pixels, masks[:1], masks[1:]).loss.backward()
    for (name, found), expected in zip(fast.named_parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", ["double", "bfloat16", "autocast", "vector", "empty"])
def test_other_cases_are_left_to_the_linear_layer(case):
    layer = use_onednn(nn.Linear(8, 4))
    x = {"vector": torch.randn(8), "empty": torch.randn(0, 8)}.get(case, torch.randn(3, 8))
    if case in ("double", "bfloat16"):
        dtype = torch.float64 if case == "double" else torch.bfloat16
        layer, x = layer.to(dtype), x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        output = layer(x)
    assert "_Product" not in type(output.grad_fn).__name__
    assert output.dtype == (torch.bfloat16 if case == "autocast" else x.dtype)
    torch.testing.assert_close(
        output.float(), (x @ layer.weight.T.to(x) + layer.bias.to(x)).float(), rtol=1e-2, atol=1e-2
    )


def test_a_model_can_be_traced():
    model = use_onednn(nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 2)))
    x = torch.randn(3, 8)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))


def test_gradients_of_frozen_parts_are_not_computed():
    layer = use_onednn(nn.Linear(8, 4))
    layer.weight.requires_grad_(False)
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad.tolist() == [3.0] * 4


def test_a_build_without_onednn_is_refused(monkeypatch):
    monkeypatch.setattr(onednn.torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="has no oneDNN"):
        use_onednn(nn.Linear(8, 4))


def test_a_block_leaves_the_layers_as_they_were():
    plain, fast = nn.Linear(8, 4), use_onednn(nn.Linear(4, 2))
    with pytest.raises(KeyError), using_onednn(nn.Sequential(plain, fast)):
        assert type(plain) is OneDnnLinear
        raise KeyError
    assert type(plain) is nn.Linear and type(fast) is OneDnnLinear


@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),  # MKL uses it there, and is the faster one
        ("AVX2", "AuthenticAMD", False),
        ("DEFAULT", "AuthenticAMD", False),
    ],
)
def test_it_pays_off_where_mkl_leaves_avx512_unused(monkeypatch, tmp_path, capability, maker, expected):
    monkeypatch.setattr(onednn.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    listing = tmp_path / "cpuinfo"
    monkeypatch.setattr(onednn, "Path", lambda path: listing)
    monkeypatch.setattr(onednn.platform, "processor", lambda: f"Family 6, {maker}")
    assert onednn_pays_off() is expected
    listing.write_text(f"vendor_id\t: {maker}\n")
    monkeypatch.setattr(onednn.platform, "processor", lambda: "")
    assert onednn_pays_off() is expected
