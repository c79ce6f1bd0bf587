"""The average of a module whose source has LoRA adapters: the target follows their effective weights."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from hf_jepa.core.adapters import adapted_weights, merge_adapters, without_adapters
from hf_jepa.core.ema import Average


class Net(nn.Module):
    """A layer of every kind that peft adapts, and what it does not adapt."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear, self.norm = nn.Embedding(7, 6), nn.Linear(6, 5), nn.LayerNorm(5)
        self.conv1d, self.conv2d = nn.Conv1d(5, 4, 3, padding=1), nn.Conv2d(4, 6, (2, 3), padding=1)
        self.grouped, self.pointwise = nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 3, 1)
        self.conv3d = nn.Conv3d(1, 2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (B, T)
        x = self.norm(self.linear(self.embedding(ids)))  # (B, T, 5)
        x = self.conv1d(x.mT)[..., None]  # (B, 4, T, 1)
        x = self.pointwise(self.grouped(self.conv2d(x.expand(-1, -1, -1, 4))))  # (B, 3, T', W')
        return self.conv3d(x[:, None])


ADAPTED = ["embedding", "linear", "conv1d", "conv2d", "pointwise", "conv3d"]
IDS = torch.arange(14).view(2, 7) % 7


def pair(**options) -> tuple[Net, Net]:
    """A target, and a source with other weights and with adapters that change them."""
    torch.manual_seed(0)
    target, source = Net(), Net()
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ADAPTED, "init_lora_weights": False}
    return target, inject_adapter_in_model(LoraConfig(**(settings | options)), source)


def merged(source: Net) -> Net:
    """A copy whose layers are plain, by peft's own merging."""
    source = copy.deepcopy(source)
    for name in ADAPTED:
        layer = source.get_submodule(name)
        if hasattr(layer, "base_layer"):
            layer.merge()
            setattr(source, name, layer.base_layer)
    return source


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"bias": "all"}, {"target_modules": ["linear"]}])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.996])
def test_the_target_follows_the_effective_weights(momentum, options):
    target, source = pair(**options)
    start = {name: p.detach().double() for name, p in target.named_parameters()}
    wanted = {name: p.detach().double() for name, p in merged(source.double()).named_parameters()}
    source.float()
    base = {name: p.detach().double() for name, p in without_adapters(dict(source.named_parameters())).items()}
    assert (wanted["linear.weight"] - base["linear.weight"]).abs().max() > 0.1
    average = Average(target, source)
    for _ in range(3):
        average(momentum)
    for name, p in target.named_parameters():
        expected = wanted[name] + momentum**3 * (start[name] - wanted[name])
        torch.testing.assert_close(p.double(), expected, rtol=5e-7, atol=5e-7, msg=name)


def test_the_matrices_are_read_anew_at_every_step():
    target, source = pair()
    average = Average(target, source)
    average(0.0)
    with torch.no_grad():
        source.linear.lora_B["default"].weight.add_(1.0)
        source.linear.scaling["default"] *= 2
    average(0.0)
    torch.testing.assert_close(target.linear.weight, merged(source).linear.weight, rtol=1e-6, atol=1e-6)


def test_what_the_adapters_reach_stays_there():
    target, source = pair()
    average = Average(target, source)
    average(0.0)
    reached = copy.deepcopy(target.state_dict())
    for _ in range(5):
        average(0.9)
    assert all(torch.equal(reached[name], tensor) for name, tensor in target.state_dict().items())


def test_adapters_of_two_names_add_up():
    target, source = pair()
    inject_adapter_in_model(
        LoraConfig(r=3, target_modules=["linear"], init_lora_weights=False), source, adapter_name="other"
    )
    for name in ADAPTED:
        source.get_submodule(name).set_adapter(["default", "other"])
    Average(target, source)(0.0)
    assert torch.allclose(target.linear.weight, merged(source).linear.weight, atol=1e-6)
    source.linear.set_adapter("other")  # the first one is not part of the forward any more
    Average(target, source)(0.0)
    assert torch.allclose(target(IDS), source(IDS), atol=1e-5)


def test_a_float32_target_follows_a_16_bit_source_with_adapters():
    target, source = pair(target_modules=["linear"])
    source.to(torch.bfloat16).linear.lora_A.float(), source.linear.lora_B.float()  # as peft keeps adapters
    expected = source.linear.base_layer.weight.float() + source.linear.get_delta_weight("default")
    Average(target, source)(0.0)
    assert target.linear.weight.dtype == torch.float32 and torch.equal(target.linear.weight, expected)


def test_the_adapted_module_itself_may_be_the_source():
    target, source = pair()
    Average(target.linear, source.linear)(0.0)
    assert torch.allclose(target.linear.weight, merged(source).linear.weight, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["grouped"]}, r"grouped has an adapter of another kind \(groups\)"),
        ({"use_dora": True}, r"linear has an adapter of another kind \(DoraLinearVariant\)"),
        ({"lora_bias": True}, r"linear has an adapter of another kind \(lora_bias\)"),
    ],
)
def test_other_adapters_are_refused_by_name(options, message):
    target, source = pair(**({"target_modules": ["linear"]} | options))
    with pytest.raises(ValueError, match=message):
        Average(target, source)
    with pytest.raises(ValueError, match=message):
        merge_adapters(source)


def test_adapters_of_another_method_are_refused_by_name():
    from peft import LoHaConfig

    target, source = pair(target_modules=["linear"])
    inject_adapter_in_model(LoHaConfig(target_modules=["conv2d"]), source)
    with pytest.raises(ValueError, match=r"conv2d has an adapter of another kind \(peft.tuners.loha"):
        Average(target, source)


def test_adapters_in_the_target_are_refused_also_where_both_have_them():
    target, source = pair()
    with pytest.raises(
        ValueError, match="the module that follows has adapters itself, at 11 tensors such as embedding"
    ):
        Average(source, target)
    with pytest.raises(ValueError, match="has adapters itself"):
        Average(copy.deepcopy(source), source)


def test_adapters_that_the_forward_leaves_out_are_refused():
    target, source = pair()
    average = Average(target, source)
    source.linear.merge()
    with pytest.raises(ValueError, match="the adapters of linear are merged, disabled or not active"):
        average(0.9)
    source.linear.unmerge()
    source.conv2d.enable_adapters(False)
    with pytest.raises(ValueError, match="the adapters of conv2d are merged, disabled or not active"):
        average(0.9)


def test_merging_leaves_ordinary_layers_and_the_same_outputs():
    _, source = pair()
    before, plain = source(IDS), merged(source)
    assert [*adapted_weights(source)] == [f"{name}.weight" for name in source._modules if name in ADAPTED]
    merge_adapters(source)
    assert not adapted_weights(source) and not hasattr(source, "peft_config")
    assert [name for name, _ in source.named_parameters()] == [name for name, _ in Net().named_parameters()]
    torch.testing.assert_close(source(IDS), before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(source.state_dict(), plain.state_dict(), rtol=0, atol=0)
