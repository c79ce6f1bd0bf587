"""Runs of `JepaTrainer` under every engine, over two processes, for a test to compare."""

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from cpu_processes import without_gpus
from tiny_training import CLIPS, CONFIG, noise_images
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator, UndecodableImage
from hf_jepa.data.moving_digits import MovingDigits
from hf_jepa.data.videos import VideoCollator
from hf_jepa.losses.distributed import global_mean, without_rows
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.losses.vicreg import vicreg_loss
from hf_jepa.masking.build import build_mask_sampler, build_video_mask_sampler
from hf_jepa.masking.spans import SpanMaskSampler
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.program import whole_models
from hf_jepa.training.trainer import JepaTrainer


BATCH = 4  # of all processes together, times the accumulated ones
SPOILED = 0  # a sample of the third batch
ACCUMULATED = {"gradient_accumulation_steps": 2}
OURS = ("ACCELERATE_", "FSDP_")  # variables of Accelerate
ARGUMENTS: dict[str, Any] = {
    "max_steps": 6,
    "warmup_steps": 2,
    "learning_rate": 1e-3,
    "start_learning_rate": 2e-4,
    "start_momentum": 0.9,
    "final_momentum": 0.95,
    # Biases of keys have no gradient but rounding, of which AdamW with its usual epsilon makes whole steps.
    "adam_epsilon": 1e-5,
    "logging_steps": 1,
    "per_device_eval_batch_size": 4,
    "collapse_monitor": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


CONFIGS = Path(__file__).parents[1] / "src/hf_jepa/training/accelerate_configs"
CUT_UP = {"stage": 3, "stage3_param_persistence_threshold": 0}  # no parameter is small enough to stay whole
ON_HOST = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
# As files of DeepSpeed's own.
DEEPSPEED = {
    "zero3_partitioned": {"zero_optimization": CUT_UP},
    "zero3_offload_partitioned": {"zero_optimization": CUT_UP | ON_HOST},
    "zero1_bf16": {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
}
# name -> variant, file of `CONFIGS` or one of `DEEPSPEED`, training arguments
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddp": ("ijepa", "ddp", {}),
    "ddp-video": ("vjepa2_1", "ddp", {}),
    "ddp-text": ("data2vec_text", "ddp", {}),
    "ddp-accumulation": ("data2vec_text", "ddp", ACCUMULATED),
    "ddp-unreadable": ("ijepa", "ddp", ACCUMULATED),
    "ddp-nonfinite": ("ijepa", "ddp", ACCUMULATED),
    "ddp-checkpointing": ("ijepa", "ddp", {"gradient_checkpointing": True, "optim": "adamw_torch_fused"}),
    "zero0": ("ijepa", "zero0", {}),
    "zero1": ("ijepa", "zero1", {}),
    "zero1-nonfinite": ("ijepa", "zero1", {}),
    "zero2": ("ijepa", "zero2", {}),
    "zero2-accumulation": ("data2vec_text", "zero2", ACCUMULATED),
    "zero3": ("ijepa", "zero3", {"collapse_monitor": True, "logging_steps": 5}),
    "zero3-init": ("ijepa", "zero3_partitioned", {}),
    "zero3-video": ("vjepa2_1", "zero3_partitioned", {}),
    "zero3-text": ("data2vec_text", "zero3_partitioned", {}),
    "zero3-accumulation": ("ijepa", "zero3_partitioned", ACCUMULATED),
    "zero3-nonfinite": ("ijepa", "zero3_partitioned", {}),
    "zero3-checkpointing": ("ijepa", "zero3_partitioned", {"gradient_checkpointing": True}),
    "zero3-offload-partitioned": ("ijepa", "zero3_offload_partitioned", {}),
    "fsdp2": ("ijepa", "fsdp2", {"collapse_monitor": True, "logging_steps": 5}),
    "fsdp2-video": ("vjepa2_1", "fsdp2", {}),
    "fsdp2-text": ("data2vec_text", "fsdp2", {}),
    "fsdp2-accumulation": ("ijepa", "fsdp2", ACCUMULATED),
    "fsdp2-nonfinite": ("ijepa", "fsdp2", {}),
    "fsdp2-checkpointing": ("ijepa", "fsdp2", {"gradient_checkpointing": True, "optim": "adamw_torch_fused"}),
    "bf16-ddp": ("ijepa", "ddp", {"bf16": True}),
    "bf16-fsdp2": ("ijepa", "fsdp2", {"bf16": True}),
    "bf16-zero1": ("ijepa", "zero1", {"bf16": True}),
    "bf16-zero3-partitioned": ("ijepa", "zero3_partitioned", {"bf16": True}),
}
SAVED = ("zero2", "zero3", "zero3-init", "fsdp2", "bf16-zero3-partitioned")  # with card and fingerprint


def launch_variables(config: str, folder: Path) -> dict[str, str]:
    """What `accelerate launch` tells its processes of a configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    command = ["--config_file", str(CONFIGS / f"{config}.yaml")]
    if config == "zero0":  # plain data parallelism by DeepSpeed: no file is worth it
        command = ["--config_file", str(CONFIGS / "zero1.yaml"), "--zero_stage", "0"]
    if config in DEEPSPEED:
        file = folder / f"{config}-{os.environ['RANK']}.json"
        sizes = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto")
        file.write_text(
            json.dumps(
                sizes
                | {
                    "gradient_clipping": "auto",
                }
                | DEEPSPEED[config]
            )
        )
        command = ["--use_deepspeed", "--deepspeed_config_file", str(file)]
        command += ["--zero3_init_flag", str("zero3" in config)]
    command += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0", "script"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    arguments.deepspeed_fields_from_accelerate_config = ""
    by_deepspeed = arguments.use_deepspeed
    variables = prepare_deepspeed_cmd_env(arguments)[1] if by_deepspeed else prepare_multi_gpu_env(arguments)
    return {name: value for name, value in variables.items() if name.startswith(OURS)}


class Texts(torch.utils.data.Dataset):
    """Sequences of 8 to 32 random tokens."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        length = int(torch.randint(8, 33, (), generator=generator))
        return {"input_ids": torch.randint(3, 63, (length,), generator=generator), "sample_index": index}


class MostlyUnreadable(EmbeddedCrops):
    """Crops of which more than half cannot be read, so that some processes have batches of nothing."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        crops = super().__getitems__(indices)
        broken = [UndecodableImage(i, f"{i}.png", "broken", (3, 48, 48)) for i in indices]
        return [bad if i % 5 < 3 else crop for i, bad, crop in zip(indices, broken, crops, strict=True)]


class Spoiled(EmbeddedCrops):
    """Crops of which one, in the batch of one process, has a pixel of NaN."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        crops = super().__getitems__(indices)
        for index, crop in zip(indices, crops, strict=True):
            if index == SPOILED:
                crop["pixel_values"][0, 0, 0] = float("nan")
        return crops


# Last part of the name of a run -> its data, if they are not the usual ones.
DATASETS = {"unreadable": MostlyUnreadable, "nonfinite": Spoiled}


class SpanCollator:
    """Pads texts, and hides spans of them."""

    def __init__(self):
        self.sampler = SpanMaskSampler(0.35, 4)

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [sample["input_ids"] for sample in samples]
        index = torch.tensor([sample["sample_index"] for sample in samples])
        valid = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=1),
            "attention_mask": valid.long(),
            "bool_masked_pos": self.sampler(index, valid, step=0),
            "sample_index": index,
        }


def parts_of(variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the tiny config, and what the trainer needs beside the model."""
    if variant == "data2vec_text":
        fields = VARIANTS[variant].tiny | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return fields, {"train_dataset": Texts(), "data_collator": SpanCollator()}
    if VARIANTS[variant].modality == "video":
        parts = {
            "mask_sampler": build_video_mask_sampler("corrected", grid_size=(2, 8, 8)),
            "train_dataset": MovingDigits(64, num_frames=4),
            "data_collator": VideoCollator(frame_counts=(4,)),
        }
        return VARIANTS[variant].tiny | CLIPS | {"initializer_range": 0.1}, parts
    parts = {
        "mask_sampler": build_mask_sampler("corrected", grid_size=(6, 6), target_scale=(0.15, 0.25), min_keep=3),
        "train_dataset": EmbeddedCrops(64),
        "data_collator": ImageCollator(),
    }
    return CONFIG, parts


def kind_of(name: str) -> str:
    """The last part of the name of a run."""
    return name.rpartition("-")[2]


def make(name: str, folder: Path, processes: int = 1) -> JepaTrainer:
    """The trainer of a run, in as many processes, or in a single one with the same batches."""
    variant, _, arguments = RUNS[name]
    arguments = ARGUMENTS | {"per_device_train_batch_size": BATCH // processes, "use_cpu": processes == 1} | arguments
    arguments = JepaTrainingArguments(str(folder / name), **arguments)
    _, parts = parts_of(variant)
    if kind_of(name) in DATASETS:
        parts["train_dataset"] = DATASETS[kind_of(name)](64)
    if name == "zero3-init" and processes > 1:  # each process keeps its part as soon as it is read
        return JepaTrainer(VARIANTS[variant].model_class().from_pretrained(folder / "start"), arguments, **parts)
    with whole_models(arguments):
        return JepaTrainer(fresh_model(variant), arguments, **parts)


def fresh_model(variant: str) -> JepaPreTrainingMixin:
    """A tiny model, always the same."""
    torch.manual_seed(0)
    model = VARIANTS[variant].model_class()(VARIANTS[variant].config_class()(**parts_of(variant)[0]))
    if variant == "vjepa2_1":
        model.train_one_modality(images=False)
    return model


@contextmanager
def engine(config: str, folder: Path) -> Iterator[None]:
    """The processes as if started with a configuration; nothing is left of the engine before."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    for variable in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[variable]
    os.environ.update(launch_variables(config, folder))
    without_gpus()
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        if "deepspeed" in sys.modules:
            from deepspeed.runtime import torch_autocast

            torch_autocast.TORCH_AUTOCAST_INITIALIZED, torch_autocast.TORCH_AUTOCAST_DTYPE = False, None
        gc.collect()


def weights(trainer: JepaTrainer) -> dict[str, torch.Tensor]:
    """All weights, whole, in every process."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "ds_tensor"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([tensor]):
                found[name] = tensor.detach().clone()
        else:
            found[name] = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()
    return found


def evaluations(trainer: JepaTrainer) -> list[float]:
    """The loss of ten images, alone and with three that cannot be read."""
    return [trainer.evaluate(noise_images(10, unreadable))["eval_loss"] for unreadable in (0, 3)]


def losses_of_a_batch(rows: torch.Tensor, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """Losses over the batch of all processes, and their gradient, from embeddings (2, N, D) of two views."""
    rows = rows.clone().requires_grad_()
    terms = {
        "mean": global_mean(rows.square()),
        "sigreg": sigreg(rows, step=0, num_slices=8),
        "vicreg": vicreg_loss(rows[0], rows[1]).loss,
    }
    (weight * sum(terms.values())).backward()
    return {name: term.detach() for name, term in terms.items()} | {"gradient": rows.grad}


def batch_rows() -> torch.Tensor:
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


def train_under_engines(folder: Path) -> None:
    """All runs, one after the other, and what else several processes have to agree on."""
    rank = os.environ["RANK"]
    for name in [name for name in RUNS if find_spec("deepspeed") is not None or "zero" not in name]:
        start = time.monotonic()
        with engine(RUNS[name][1], folder):
            trainer = make(name, folder, processes=2)
            trainer.train()
            log = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            torch.save({"weights": weights(trainer), "log": log}, folder / f"{name}-{rank}.pt")
            if name in SAVED:
                trainer.save_model()
                trainer.create_model_card()
            trainer.accelerator.wait_for_everyone()
            del trainer
        if rank == "0":
            print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    if find_spec("deepspeed") is not None:
        with engine("zero1_bf16", folder):
            try:
                make("bf16-zero1", folder, processes=2)
            except ValueError as error:
                (folder / f"refused-{rank}.txt").write_text(str(error))
    with engine("ddp", folder):
        torch.save(evaluations(make("ddp", folder, processes=2)), folder / f"evaluated-{rank}.pt")
    with without_rows() if rank == "1" else nullcontext():  # whose rows are others, and nobody's business
        weight = 0.0 if rank == "1" else 2.0  # as `StepWeightsMixin` has it
        torch.save(losses_of_a_batch(batch_rows() * (1 + int(rank)), weight), folder / f"absent-{rank}.pt")
