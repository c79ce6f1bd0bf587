"""What is said when memory runs out, and what is estimated to fit."""

import pytest
import torch
from transformers import TrainerCallback

from hf_jepa.training.out_of_memory import Memory, fixes, largest_batch, same_global_batch


GIB = 2**30
# 10 GiB fixed, 1 GiB for each of 40 samples, on 40 GiB.
MEMORY = Memory(total=40 * GIB, fixed=10 * GIB, peak=50 * GIB, batch=40)


def test_the_largest_batch_fits_and_one_more_does_not():
    fits = largest_batch(MEMORY)
    assert fits == 28  # 0.95 * 40 - 10
    assert MEMORY.fixed + fits * MEMORY.per_sample <= 0.95 * MEMORY.total < MEMORY.fixed + (fits + 1) * GIB
    assert largest_batch(MEMORY, activations=0.5) == 56 and largest_batch(MEMORY, fixed=0.5) == 33
    assert largest_batch(Memory(total=GIB, fixed=2 * GIB, peak=3 * GIB, batch=1)) == 0


@pytest.mark.parametrize(
    ("fits", "batch", "accumulation", "expected"), [(28, 40, 1, (20, 2)), (28, 40, 3, (24, 5)), (6, 7, 1, (1, 7))]
)
def test_the_global_batch_stays(fits, batch, accumulation, expected):
    found = same_global_batch(fits, batch, accumulation)
    assert found == expected and found[0] * found[1] == batch * accumulation


def test_ways_out_are_those_the_run_does_not_use():
    lines = fixes(MEMORY, 40, 1, layers=12, world_size=4, checkpointing=False, half=False, sharded=False)
    assert lines[0].startswith("per_device_train_batch_size=20 gradient_accumulation_steps=2: 28 samples fit")
    assert "gradient_checkpointing=true: about 192 samples" in lines[1]  # of 1/16 + 1/12 of the activations
    assert "bf16=true: about 56 samples" in lines[2]
    assert "fsdp2.yaml: about 35 samples" in lines[3] and "hf-jepa estimate" in lines[4]
    assert len(fixes(MEMORY, 40, 1, 12, 4, checkpointing=True, half=True, sharded=True)) == 2
    assert len(fixes(MEMORY, 40, 1, 12, 1, checkpointing=True, half=True, sharded=False)) == 2
    part = Memory(MEMORY.total, MEMORY.fixed, 39 * GIB, 40, complete=False)
    assert "at most 38 samples" in fixes(part, 40, 1, 12, 1, checkpointing=True, half=True)[0]
    full = Memory(GIB, 2 * GIB, 3 * GIB, 1)
    assert fixes(full, 1, 1, 12, 1)[0].startswith("no smaller batch helps")


class Fail(TrainerCallback):
    """An allocator that has no more, in some of the first calls of the model."""

    def __init__(self, error: Exception, until: int = 10):
        self.error, self.until, self.calls = error, until, 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.register_forward_hook(self._fail)

    def _fail(self, *args):
        self.calls += 1
        if 1 < self.calls <= self.until:
            raise self.error


CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to "
                   "allocate 3221225472 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 8 GiB")


@pytest.mark.parametrize("error", [CPU, CUDA], ids=["CPU", "CUDA"])
def test_a_step_without_memory_says_what_to_do(make_trainer, error):
    trainer = make_trainer(max_steps=3, callbacks=[Fail(error)], gradient_accumulation_steps=2)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer.train()
    text = str(caught.value)
    assert caught.value.__cause__ is error and "3.00 GiB asked for" in text
    assert "in step 1 of rank 0 on CPU" in text
    assert "per_device_train_batch_size=8 (pixel_values (8, 3, 48, 48)" in text
    assert "per_device_train_batch_size=4 gradient_accumulation_steps=4: at most " in text


def test_smaller_batches_are_still_tried(make_trainer):
    trainer = make_trainer(max_steps=3, callbacks=[Fail(CPU, until=2)], auto_find_batch_size=True)
    trainer.train()
    assert trainer.state.global_step == 3 and trainer._train_batch_size == 7


def test_other_errors_are_left_alone(make_trainer):
    with pytest.raises(RuntimeError, match=r"^other$"):
        make_trainer(callbacks=[Fail(RuntimeError("other"))]).train()
