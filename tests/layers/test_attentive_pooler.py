"""The attentive pooler beside the recorded numbers of the official probes, and beside native transformers."""

import math

import official_probe
import pytest
import torch
from torch import nn
from transformers import VJEPA2Config, VJEPA2ForVideoClassification
from transformers import initialization as init

from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.layers.attentive_pooler import AttentivePooler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig


CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CASES = ["vjepa/attentive_probe", "vjepa2/attentive_classifier"]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return official_probe.read(request.param)


@pytest.fixture(scope="module")
def vjepa2():
    return official_probe.read("vjepa2/attentive_classifier")


@torch.no_grad()
def test_every_stage_of_the_probe(case):
    config, io, state = case
    pooler = official_probe.load(state, config["num_heads"])
    assert len(pooler.self_attention_layers) == config["depth"] - 1
    x = io["features"]
    for number, layer in enumerate(pooler.self_attention_layers):
        x = layer(x)
        torch.testing.assert_close(x, io[f"pooler_block{number}_out"], **CLOSE)
    pooled = pooler(io["features"])
    torch.testing.assert_close(pooled, io["pooled"], **CLOSE)
    torch.testing.assert_close(official_probe.head(state, pooled[:, 0]), io["logits"], **CLOSE)


@torch.no_grad()
def test_epsilon_decides_about_small_features(vjepa2):
    config, io, state = vjepa2
    for options, prefix in (({}, ""), ({"layer_norm_eps": 1e-6}, "native.")):
        pooler = official_probe.load(state, config["num_heads"], **options)
        for name in ("", "_small"):
            found = official_probe.head(state, pooler(io[f"features{name}"])[:, 0])
            torch.testing.assert_close(found, io[f"{prefix}logits{name}"], **CLOSE)
    assert (io["logits_small"] - io["native.logits_small"]).abs().max() > 1e-2  # so that each could fail


@torch.no_grad()
def test_queries_of_action_anticipation():
    config, io, state = official_probe.read("vjepa2/action_anticipation")
    pooled = official_probe.load(state, config["probe_heads"])(io["features"])
    for number, name in enumerate(("verb", "noun", "action")):
        logits = official_probe.head(state, pooled[:, number], f"{name}_classifier")
        torch.testing.assert_close(logits, io[f"logits_{name}"], **CLOSE)


def native_classifier(**options):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "crop_size": 16, "patch_size": 8}
    predictor = {"pred_hidden_size": 12, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    return VJEPA2ForVideoClassification(VJEPA2Config(**sizes, **predictor, frames_per_clip=2, num_labels=9, **options))


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_the_state_loads_in_the_native_pooler(vjepa2, eps):
    config, io, state = vjepa2
    pooler = official_probe.load(state, config["num_heads"], layer_norm_eps=eps)
    native = native_classifier(num_pooler_layers=3, layer_norm_eps=eps).pooler.eval()
    native.load_state_dict(pooler.state_dict())
    for features in (io["features"], io["features_small"]):
        torch.testing.assert_close(pooler(features)[:, 0], native(features), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_projection_that_official_v1_never_applies():
    config, io, state = official_probe.read("vjepa/attentive_probe")
    pooler = official_probe.load(state, config["num_heads"])
    weight, bias = (state[f"module.{official_probe.UNUSED}{name}"] for name in ("weight", "bias"))
    attention = pooler.cross_attention_layer.cross_attn
    # What a conversion back writes: a reader that did apply it would compute the same.
    for projection in ((torch.eye(len(bias)), torch.zeros_like(bias)), (weight, bias)):
        hook = attention.register_forward_hook(lambda _, args, out, p=projection: (nn.functional.linear(out[0], *p),))
        found = pooler(io["features"])
        hook.remove()
        same = torch.allclose(found, io["pooled"], **CLOSE)
        assert same == (projection[0] is not weight)
    assert {name for name, _ in attention.named_children()} == {"q_proj", "k_proj", "v_proj"}


@torch.no_grad()
def test_attention_implementations_agree(vjepa2):
    config, io, state = vjepa2
    pooler = official_probe.load(state, config["num_heads"])
    expected = pooler(io["features"])
    weights = {}
    for layer in (pooler.self_attention_layers[0].self_attn, pooler.cross_attention_layer.cross_attn):
        layer.register_forward_hook(lambda module, args, out: weights.update({type(module).__name__: out[1]}))
    pooler.cross_attention_layer.cross_attn.config._attn_implementation = "eager"  # one config for all layers
    torch.testing.assert_close(pooler(io["features"]), expected, **CLOSE)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert shapes == {"PoolerSelfAttention": (2, 4, 18, 18), "PoolerCrossAttention": (2, 4, 1, 18)}
    torch.testing.assert_close(weights["PoolerCrossAttention"].sum(-1), torch.ones(2, 4, 1))


def test_the_order_of_tokens_does_not_matter(case):
    config, io, state = case
    pooler = official_probe.load(state, config["num_heads"])
    torch.testing.assert_close(pooler(io["features"].flip(1)), io["pooled"], **CLOSE)


class Probe(JepaPreTrainedModel):
    config_class = IJepaConfig

    def __init__(self, config, **sizes):
        super().__init__(config)
        self.pooler = AttentivePooler(config, config.hidden_size, **sizes)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):  # as the docstring of AttentivePooler asks
        super()._init_weights(module)
        if isinstance(module, AttentivePooler):
            init.trunc_normal_(module.query_tokens, std=self.config.initializer_range)


@pytest.mark.parametrize(
    ("layers", "divisors"), [(3, [2**0.5, 2.0, 6**0.5, 6**0.5]), (1, [2**0.5] * 2), (0, [2**0.5])]
)
def test_initialisation(layers, divisors):
    torch.manual_seed(0)
    config = IJepaConfig(hidden_size=256, num_attention_heads=4)
    pooler = Probe(config, num_heads=4, num_self_attention_layers=layers, num_queries=16).pooler
    stds = {name: p.std().item() for name, p in pooler.named_parameters() if p.ndim > 1}
    expected = dict.fromkeys(stds, 0.02)
    for number, divisor in enumerate(divisors[:-1]):
        expected[f"self_attention_layers.{number}.self_attn.out_proj.weight"] = 0.02 / divisor
        expected[f"self_attention_layers.{number}.mlp.fc2.weight"] = 0.02 / divisor
    expected["cross_attention_layer.mlp.fc2.weight"] = 0.02 / divisors[-1]
    assert stds == pytest.approx(expected, rel=0.05)
    for name, parameter in pooler.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (1.0 if "norm" in name and "weight" in name else 0.0)).all(), name


def test_gradient_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model = Probe(IJepaConfig(hidden_size=32, num_attention_heads=4), num_heads=4, num_self_attention_layers=2)
    features = torch.randn(2, 6, 32)  # of a frozen encoder: no gradient enters from below
    gradients, calls = [], []
    for layer in (*model.pooler.self_attention_layers, model.pooler.cross_attention_layer):
        layer.layer_norm1.register_forward_pre_hook(lambda *args: calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model.pooler(features).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert len(calls) == 3 + 6  # the second time every layer ran again in the backward pass
    assert all(gradient.abs().max() > 0 for gradient in gradients[0][:3])  # of queries, a norm
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_no_pooler_can_be_is_refused():
    config = IJepaConfig()
    with pytest.raises(ValueError, match="width 32 cannot be split into 5 heads"):
        AttentivePooler(config, 32, 5, 1)
    with pytest.raises(ValueError, match="num_queries is 0"):
        AttentivePooler(config, 32, 4, 1, num_queries=0)
    with pytest.raises(ValueError, match="num_self_attention_layers is -1"):
        AttentivePooler(config, 32, 4, -1)
    pooler = AttentivePooler(config, 32, 4, 0)
    with pytest.raises(ValueError, match=r"\(batch, tokens, 32\), got \(2, 4, 3, 3, 32\)"):
        pooler(torch.zeros(2, 4, 3, 3, 32))
    with pytest.raises(ValueError, match=r"got \(2, 4, 16\)"):
        pooler(torch.zeros(2, 4, 16))
    assert math.isclose(pooler.cross_attention_layer.cross_attn.scaling, 8**-0.5)
