"""No step but one that logs reads a value of what is computed: on a GPU every reading waits for all that is queued.

On a CPU nothing waits, so what would is watched for: a mode that sees every call of PyTorch, in Python and below it.
What is drawn or read on the host anyway (batches, masks) has its place in files that are named here.
"""

import traceback

import pytest
import torch
from tiny_pairs import draw_pairs, make_text_trainer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hf_jepa.core.ema import Average
from hf_jepa.training.trainer import JepaTrainer


# What these read was never on a device, or is on its way there.
ON_HOST = ("hf_jepa/masking/", "hf_jepa/data/", "torch/utils/data/", " draw_masks", " _prepare_input")
# Once in a step transformers asks whether rows of text are packed, in code that is not ours.
OF_OTHERS = ("find_packed_sequence_indices",)
# On a CPU, where nothing waits, whether a step is left out is read at once.
ON_CPU = ("finite_steps.py", " _get_grad_norm")
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero"}
BELOW = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select"}


def forbid(name: str) -> None:
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[:-3]]
    decides = any(all(part in frame for part in ON_CPU) for frame in frames)
    if not decides and not any(part in frame for frame in frames for part in ON_HOST + OF_OTHERS):
        raise AssertionError(
            f"{name} reads a value on the host in a step that is not logged:\n" + "\n".join(frames[-8:])
        )


class _InPython(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        # Here every device is a CPU: only its name in the code means the host.
        to_cpu = name == "to" and any(isinstance(each, str) for each in (*args[1:], *(kwargs or {}).values()))
        if (name in READS or to_cpu) and isinstance(args[0], torch.Tensor):
            forbid(name)
        return func(*args, **(kwargs or {}))


class _Below(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in BELOW:
            forbid(func._schema.name)
        return func(*args, **(kwargs or {}))


class NoReading(TrainerCallback):
    """Watches from the start of a step to the end of all its callbacks, where the step is not logged."""

    def __init__(self, every: int):
        self.every, self.modes, self.watched = every, [], 0

    def on_step_begin(self, args, state, control, **kwargs):
        if (state.global_step + 1) % self.every:
            self.modes, self.watched = [_InPython(), _Below()], self.watched + 1
            for mode in self.modes:
                mode.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        for mode in reversed(self.modes):
            mode.__exit__(None, None, None)
        self.modes = []


def watched(trainer, steps: int, every: int) -> None:
    watch = NoReading(every)
    trainer.add_callback(watch)  # after all others, whose ends of a step are watched too
    try:
        trainer.train()
    finally:
        watch.on_step_end(None, None, None)
    assert watch.watched == steps - steps // every


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "bf16": True}])
def test_no_step_of_images_reads(make_trainer, options):
    watched(make_trainer(max_steps=6, logging_steps=3, gradient_accumulation_steps=2, **options), 6, 3)


def test_no_step_of_clips_reads(make_video_trainer):
    watched(make_video_trainer(max_steps=4, logging_steps=2, gradient_checkpointing=True), 4, 2)


def test_no_step_of_pairs_reads(tmp_path):
    trainer = make_text_trainer(tmp_path, draw_pairs(16), max_steps=4, logging_steps=2, per_device_train_batch_size=4)
    watched(trainer, 4, 2)


def reading_step(self, *args, original=JepaTrainer.training_step, **kwargs):
    loss = original(self, *args, **kwargs)
    float(loss)
    return loss


def reading_gradient(self, *args, original=JepaTrainer.training_step, **kwargs):
    loss = original(self, *args, **kwargs)
    if next(self.model.context_encoder.parameters()).grad.isnan().any():
        raise FloatingPointError
    return loss


def reading_average(self, momentum, skip=None, original=Average.__call__):
    original(self, momentum, skip)
    self.target[0].norm().to("cpu")


@pytest.mark.parametrize(
    ("owner", "name", "reading", "how"),
    [
        (JepaTrainer, "training_step", reading_step, "__float__"),
        (JepaTrainer, "training_step", reading_gradient, "__bool__"),
        (Average, "__call__", reading_average, "to"),
    ],
)
def test_a_reading_is_found(make_trainer, monkeypatch, owner, name, reading, how):
    monkeypatch.setattr(owner, name, reading)
    with pytest.raises(AssertionError, match=f"{how} reads a value on the host"):
        watched(make_trainer(max_steps=2, logging_steps=2), 2, 2)


def test_what_the_host_reads_is_never_sent_to_the_device(make_trainer):
    assert make_trainer().get_train_dataloader().device is None
