"""What `JepaTrainer` adds to a step of I-JEPA: beside a bare loop that does the same work.

Loader, masks, schedules, forward and backward pass, fused AdamW and average of the target encoder are the same on both
sides. The two take turns step by step, in one process, on copies of one model: a callback, the last one of a step,
does a step of the bare loop. What the trainer does besides (norm of gradients, callbacks, logs) is what is measured.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch
from timing import Row
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.layers.onednn import onednn_pays_off, use_onednn
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.optimizer import build_optimizer
from hf_jepa.training.schedules import learning_rate_at, momentum_at, weight_decay_at
from hf_jepa.training.trainer import JepaTrainer


LIMIT = 1.03
WARM_UP = 3  # steps in which memory is taken and shapes are counted


def run(quick: bool) -> Iterator[Row]:
    if quick:
        config = IJepaConfig.from_size("vit_tiny", num_hidden_layers=2, pred_hidden_size=96, pred_num_hidden_layers=2)
        yield from bench_trainer("tiny", config, batch=2, steps=6)
        return
    config = IJepaConfig.from_size("vit_small", pred_hidden_size=192, pred_num_hidden_layers=6)
    yield from bench_trainer("vit_small", config, batch=8, steps=43)


def bench_trainer(size: str, config: IJepaConfig, batch: int, steps: int) -> list[Row]:
    """Ratio of the medians of steps that are not logged, and what a log takes beyond such a step."""
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = IJepaForPreTraining(config)
    # One shape, so that all steps cost the same.
    masks = MultiBlockMaskSampler(config.grid_size, target_scale=(0.18, 0.18), target_aspect_ratio=(1.0, 1.0))
    crops = EmbeddedCrops(batch * steps, config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        options = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
        arguments = JepaTrainingArguments(
            folder, per_device_train_batch_size=batch, max_steps=steps, warmup_steps=2, logging_steps=10, **options
        )
        parts = {"train_dataset": crops, "data_collator": ImageCollator()}
        trainer = JepaTrainer(copy.deepcopy(model), arguments, masks, **parts)
        turns = _Turns(_BareLoop(model, arguments, masks, **parts))
        trainer.add_callback(turns)
        trainer.train()
    step = f"{size}, batch {batch}"
    # What a log needs is measured in its step, number 9, and written with the next one.
    plain, bare = (
        [time for number, time in times if 0 < number % 10 < 9 and number >= WARM_UP]
        for times in (turns.ours, turns.bare)
    )
    ours, other = statistics.median(plain), statistics.median(bare)
    rows = [Row(f"step of JepaTrainer, {step}", "bare loop", ours, other, LIMIT)]
    by_number = dict(turns.ours)
    if logs := [by_number[n] + by_number[n + 1] - 2 * ours for n in range(9, steps - 1, 10)]:
        rows.append(Row(f"one log of JepaTrainer, {step}", "", statistics.median(logs), None, None))
    return rows


class _Turns(TrainerCallback):
    """Milliseconds of CPU time by the number of the step; the log of a step counts with the next one."""

    def __init__(self, bare: "_BareLoop"):
        self.loop, self.ours, self.bare = bare, [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        number = state.global_step - 1
        ended = time.process_time()
        self.loop.step(number)
        self.ours.append((number, 1000 * (ended - self.started)))
        self.started = time.process_time()
        self.bare.append((number, 1000 * (self.started - ended)))


class _BareLoop:
    def __init__(self, model: IJepaForPreTraining, args: JepaTrainingArguments, masks, train_dataset, data_collator):
        self.model = model.train()
        if onednn_pays_off():  # as in a run, see `KernelMixin`
            use_onednn(model)
        self.args, self.masks = args, masks
        loader = DataLoader(train_dataset, args.train_batch_size, True, collate_fn=data_collator, drop_last=True)
        self.batches = iter(loader)
        betas = (args.adam_beta1, args.adam_beta2)
        self.optimizer = build_optimizer(model, args.learning_rate, args.weight_decay, betas, args.adam_epsilon)
        self.average = model.target_average()

    def step(self, number: int) -> None:
        args, steps = self.args, self.args.max_steps
        batch = next(self.batches)
        masks = self.masks(batch["sample_index"], step=number, epoch=0)
        rates = (args.start_learning_rate, args.learning_rate, args.final_learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(number, steps, args.warmup_steps, *rates)
            if group["decays"]:
                group["weight_decay"] = weight_decay_at(number, steps, args.weight_decay, args.final_weight_decay)
        self.model(batch["pixel_values"], *masks).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average(momentum_at(number, steps, args.start_momentum, args.final_momentum))
