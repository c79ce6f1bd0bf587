"""LARS beside a restatement in numpy, and which parameters each optimizer treats how."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hf_jepa.training.large_batch import Lars, OptimizerArguments


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.context_encoder = nn.Identity()
        self.projector = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.predictor = nn.Linear(3, 3)

    def forward(self, x):
        return self.predictor(self.projector(self.context_encoder(x))).square().sum()


def restated(weights: dict, gradients: list[dict], lr, wd, momentum, eta, clip) -> dict:
    """The official update, one parameter after another: VICReg's LARS and, with `clip`, LARC (1708.03888, 5)."""
    weights, buffers = dict(weights), dict.fromkeys(weights, 0.0)
    for gradient in gradients:
        for name, g in gradient.items():
            if weights[name].ndim > 1:
                g = g + wd * weights[name]
                w_norm, g_norm = np.linalg.norm(weights[name]), np.linalg.norm(g)
                if w_norm > 0 and g_norm > 0:
                    local = eta * w_norm / g_norm
                    g = g * (min(local, lr) / lr if clip else local)
            buffers[name] = momentum * buffers[name] + g
            weights[name] = weights[name] - lr * buffers[name]
    return weights


@pytest.mark.parametrize("clip", [False, True])
def test_lars_is_the_restatement(clip):
    model = Siamese()
    with torch.no_grad():
        model.predictor.weight.zero_()  # no length to go by: a step of SGD
    lr, wd, eta = 0.3, 0.1, 0.5 if clip else 0.02
    arguments = OptimizerArguments(optimizer="lars", lars_eta=eta, lars_clip=clip)
    optimizer = arguments.build_optimizer(model, lr, wd)
    start = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    gradients, clipped = [], []
    for scale in (1.0, 10.0, 0.1):
        optimizer.zero_grad()
        for p in model.parameters():
            p.grad = scale * torch.randn_like(p)
        gradients.append({name: p.grad.double().numpy().copy() for name, p in model.named_parameters()})
        weight = model.projector[0].weight.detach()
        clipped.append(bool(eta * weight.norm() / (model.projector[0].weight.grad + wd * weight).norm() > lr))
        optimizer.step()
    assert not clip or len(set(clipped)) == 2  # both sides of the limit
    expected = restated(start, gradients, lr, wd, 0.9, eta, clip)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().double().numpy(), expected[name], rtol=2e-5, atol=1e-6)


def test_lars_resumes_and_leaves_what_has_no_gradient():
    layer, unused = nn.Linear(3, 2), nn.Linear(2, 2)
    optimizer = Lars([*layer.parameters(), *unused.parameters()], lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(unused.state_dict())

    def step(layer, optimizer, seed):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        return optimizer.step(lambda: (optimizer.zero_grad(), (y := layer(x).square().sum()).backward(), y)[-1])

    assert step(layer, optimizer, 0) > 0
    copied = copy.deepcopy(layer)
    resumed = Lars([*copied.parameters(), *copy.deepcopy(unused).parameters()], lr=0.7)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(layer, optimizer, 1), step(copied, resumed, 1)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), copied.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in unused.state_dict().items())


def test_groups_say_what_is_decayed_scaled_and_scheduled():
    model = Siamese()
    names = {parameter: name for name, parameter in model.named_parameters()}
    arguments = OptimizerArguments(optimizer="lars", constant_predictor_lr=True)
    optimizer = arguments.build_optimizer(model, 0.1, 0.01)
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rules = [group[key] for key in ("decays", "adapts", "constant_lr")]
            assert seen.setdefault(names[parameter], (*rules, group["weight_decay"], group["lr"])) and group["params"]
    assert seen == {
        "projector.0.weight": (True, True, False, 0.01, 0.1),
        "projector.0.bias": (False, False, False, 0.0, 0.1),
        "projector.1.weight": (False, False, False, 0.0, 0.1),
        "projector.1.bias": (False, False, False, 0.0, 0.1),
        "predictor.weight": (True, True, True, 0.01, 0.1),
        "predictor.bias": (False, False, True, 0.0, 0.1),
    }


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("lars", Lars)])
def test_every_optimizer_lowers_a_loss(name, kind):
    model, x = Siamese(), torch.randn(16, 4)
    optimizer = OptimizerArguments(optimizer=name).build_optimizer(model, 0.01, 1e-4)
    assert type(optimizer) is kind and not any(group["constant_lr"] for group in optimizer.param_groups)
    if name != "adamw":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="optimizer='adam'"):
        OptimizerArguments(optimizer="adam").build_optimizer(Siamese(), 0.1, 0.0)
    model = Siamese()
    model.predictor = None
    with pytest.raises(ValueError, match="Siamese has no predictor"):
        OptimizerArguments(constant_predictor_lr=True).build_optimizer(model, 0.1, 0.0)
    with pytest.raises(ValueError, match=r"momentum=1\.5"):
        Lars(nn.Linear(2, 2).parameters(), 0.1, momentum=1.5)
