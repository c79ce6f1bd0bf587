"""`gradient_checkpointing: true` in a run: the same numbers from less memory, in encoder and predictor."""

import pytest
import torch
from tiny_training import VIDEO

from hf_jepa.layers.transformer import TransformerLayer
from hf_jepa.training.costs import cost


DEEP = {"num_hidden_layers": 4, "pred_num_hidden_layers": 3}


def checkpointed(trainer) -> dict[str, bool]:
    """Whether blocks compute their activations again, by the name of the block."""
    modules = trainer.model.named_modules()
    flag = "gradient_checkpointing"
    return {name: getattr(module, flag) for name, module in modules if hasattr(module, flag)}


def same_weights(first, second) -> bool:
    return all(map(torch.equal, first.model.state_dict().values(), second.model.state_dict().values()))


def test_images_take_less_memory_and_the_same_steps(make_trainer):
    found = {}
    for on in (False, True):
        fields = {"model_fields": DEEP, "max_steps": 2, "per_device_train_batch_size": 32}
        trainer = make_trainer(f"{on}", gradient_checkpointing=on, **fields)
        trainer.train()
        found[on] = trainer, cost(trainer)["memory_mib"]
    (plain, whole), (saving, less) = found[False], found[True]
    assert same_weights(plain, saving) and less < 0.8 * whole, (less, whole)
    blocks = [name for name, module in saving.model.named_modules() if isinstance(module, TransformerLayer)]
    assert set(blocks) <= checkpointed(saving).keys() and len(blocks) == 4 + 4 + 3
    assert all(checkpointed(saving).values()) and not any(checkpointed(plain).values())


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] if name != "vjepa2" else []) for name in VIDEO]
)
def test_clips_train_alike(make_video_trainer, variant):
    found = {}
    for on in (False, True):
        trainer = make_video_trainer(variant, f"{on}", max_steps=2, gradient_checkpointing=on)
        trainer.train()
        found[on] = trainer, cost(trainer)["memory_mib"]
    assert same_weights(found[False][0], found[True][0]) and found[True][1] < found[False][1]
    blocks = checkpointed(found[True][0])
    assert {"predictor" in name for name in blocks} == {True, False} and all(blocks.values())
