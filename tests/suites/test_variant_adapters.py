"""Every pretraining model can be continued with LoRA adapters in its context encoder."""

import pytest
import torch
from outputs import keeps_the_contract
from torch import nn

from hf_jepa.core.adapters import adapted_weights
from hf_jepa.core.adapters import merge_adapters as merge
from hf_jepa.training.adapters import adapt_context_encoder
from hf_jepa.training.optimizer import parameter_groups


pytestmark = pytest.mark.variants(condition=keeps_the_contract)


@pytest.fixture
def adapted(model):
    """The model with adapters that change its outputs."""
    adapt_context_encoder(model, rank=2)
    for name, matrix in model.context_encoder.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(matrix, std=0.1)
    return model


def test_adapters_learn_and_nothing_else_of_the_encoder(model, batch):
    outside = {name for name, p in model.named_parameters() if p.requires_grad and not of_encoder(model, name)}
    adapt_context_encoder(model, rank=2)
    assert {name for name, p in model.named_parameters() if p.requires_grad and not of_encoder(model, name)} == outside
    loss = model(**batch).loss
    loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    of_adapters = {name for name in reached if of_encoder(model, name)}
    # At the start B is 0, and so is the gradient of A.
    assert of_adapters and all(".lora_B." in name for name in of_adapters)
    assert {name for name, p in model.named_parameters() if ".lora_B." in name} - of_adapters == set()
    decayed, *others = parameter_groups(model, 0.1)
    matrices = {id(p) for name, p in model.named_parameters() if ".lora_" in name}
    assert {id(p) for p in decayed["params"]} == matrices and decayed["weight_decay"] == 0.1
    assert not matrices & {id(p) for group in others for p in group["params"]}


def of_encoder(model, name: str) -> bool:
    return name.startswith(f"{model._context_encoder_name}.")


def test_merged_weights_give_the_same_outputs(adapted, batch):
    adapted.eval()
    before = adapted(**batch)
    merge(adapted)
    assert not adapted_weights(adapted)
    after = adapted(**batch)
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-6, atol=1e-6)
    for part, wanted in zip(after.predictions, before.predictions, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-5, atol=1e-5)


def test_the_target_follows_what_the_weights_and_adapters_make(adapted):
    if adapted.config.target_source != "ema":
        with pytest.raises(ValueError, match=adapted.config.target_source):
            adapted.update_target_encoder(0.75)
        return
    before = {name: p.detach().double() for name, p in adapted.target_encoder.named_parameters()}
    average = adapted.target_average()
    average(0.75)
    average(0.5)
    merge(adapted)
    # The parts of a data2vec's student that its teacher has are called as in the teacher.
    context = getattr(adapted, "transformer_of", lambda encoder: encoder)(adapted.context_encoder)
    wanted = {name: p.detach().double() for name, p in context.named_parameters()}
    copied = getattr(adapted, "copied_parts", ())
    for name, p in adapted.target_encoder.named_parameters():
        kept = 0.0 if name.startswith(copied or "-") else 0.75 * 0.5
        expected = wanted[name] + kept * (before[name] - wanted[name])
        torch.testing.assert_close(p.double(), expected, rtol=1e-6, atol=1e-6, msg=name)
