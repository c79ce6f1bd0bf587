"""What is kept of a step that ended a run with NaN: its batches, from which anybody can make it again, and a report.

`<output_dir>/nonfinite-step-N/` holds, of the step N that ended a run,

    rank-R.safetensors    what the model of process R was given, of every accumulated batch, with the random state
    rank-R.json           step, epoch, learning rate, sample indices, and what was found not to be finite
    model/                the weights that the step began with, where they are finite

and `load_nonfinite_step` reads them again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Trainer

from hf_jepa.hub.files import new_name, read_json


NAMED = 5  # parameters and modules that a report names


@dataclass
class Record:
    """A step of one process.

    Attributes:
        step: its number, from 1; masks and schedules knew it as `step - 1`.
        epoch: when it began, 1.5 in the middle of the second.
        learning_rate: of the first group.
        inputs: of every accumulated batch the arguments of the model.
        sample_index: of every accumulated batch which samples it holds, where the batches say so.
        random: states of PyTorch's generators before the step, "cpu" and on a GPU "cuda".
        found: of every accumulated batch what is not finite in it: "loss terms", "modules" in the order of the
            computation, "gradients" from the loss backwards.
    """

    step: int
    epoch: float | None
    learning_rate: float
    inputs: list[dict[str, Any]]
    sample_index: list[Any]
    random: dict[str, torch.Tensor]
    found: list[dict[str, Any]] = field(default_factory=list)


def report(trainer: Trainer, record: Record, save_weights: bool) -> str:
    """Save a step, make it again to see where it breaks, and say it in a few lines; all processes must call this.

    Args:
        trainer: in the middle of the step, with the weights that it began with.
        record: of this process.
        save_weights: whether the weights are finite.
    """
    folder = Path(trainer.args.output_dir) / f"nonfinite-step-{record.step}"
    rank = trainer.args.process_index
    save_nonfinite_step(record, folder, rank)  # before anything else can fail
    if save_weights:
        trainer.save_model(str(folder / "model"), _internal_call=True)
    restore_random_state(record.random)
    record.found = [examine(trainer, inputs) for inputs in record.inputs]
    save_nonfinite_step(record, folder, rank)
    lines = [
        f"step {record.step}, learning rate {record.learning_rate:.4g}; what the models were given is in {folder}"
    ]
    for rank, (found, samples) in enumerate(gather_object([(record.found, _plain(record.sample_index))])):
        for number, batch in enumerate(found):
            shown = "; ".join(f"{name}: {_listed(values)}" for name, values in batch.items() if values)
            lines.append(f"rank {rank}, batch {number}: {shown or 'all is finite when it is computed again'}")
            lines += [f"    samples {samples[number]}"] if number < len(samples) else []
    return "\n".join(lines)


def examine(trainer: Trainer, inputs: dict[str, Any]) -> dict[str, list[str]]:
    """Compute a batch again and name what is not finite: inputs, loss terms, modules, gradients."""
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    single = trainer.accelerator.unwrap_model(trainer.model)
    model = trainer.model_wrapped if sharded else single  # shards are only gathered by what wraps the model
    modules: list[str] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: _note(modules, name, output))
        for name, module in single.named_modules()
        if name
    ]
    inputs = trainer._prepare_inputs(inputs)
    try:
        with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
            outputs = model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    terms = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor) and value.ndim == 0}
    found = {
        "inputs": [name for name, value in _tensors(inputs) if not _finite(value)],
        "loss terms": [f"{name} {value.item()}" for name, value in terms.items() if not _finite(value)],
        "modules": modules,
        "gradients": [],
    }
    if not sharded:
        named = {name: p for name, p in reversed(list(single.named_parameters())) if p.requires_grad}
        gradients = torch.autograd.grad(outputs["loss"], list(named.values()), allow_unused=True)
        broken = [n for n, g in zip(named, gradients, strict=True) if g is not None and not _finite(g)]
        found["gradients"] = broken
    return found


def save_nonfinite_step(record: Record, folder: Path, rank: int) -> None:
    """Write `rank-R.safetensors` and `rank-R.json`."""
    fields = {name: getattr(record, name) for name in ("inputs", "sample_index", "random")}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(fields)}
    with new_name(folder / f"rank-{rank}.safetensors") as path:
        save_file(tensors, path)
    text = json.dumps(_skeleton({f: getattr(record, f) for f in record.__dataclass_fields__}, ""), indent=1)
    with new_name(folder / f"rank-{rank}.json") as path:
        path.write_text(text + "\n", encoding="utf-8")


def load_nonfinite_step(folder: str | Path, rank: int = 0) -> Record:
    """What a process was given in the step that ended a run.

    Args:
        folder: `<output_dir>/nonfinite-step-N`.
        rank: of the process.

    Raises:
        FileNotFoundError: nothing was saved there of that process.

    Example:
        Make the step again, with dropout as it was::

            step = load_nonfinite_step("runs/big/nonfinite-step-1200", rank=3)
            model = AutoModelForPreTraining.from_pretrained("runs/big/nonfinite-step-1200/model").train()
            restore_random_state(step.random)
            with torch.autograd.detect_anomaly():
                model(**step.inputs[0]).loss.backward()
    """
    folder = Path(folder)
    if not (folder / f"rank-{rank}.json").is_file():
        raise FileNotFoundError(f"{folder} has no rank-{rank}.json: it is not what a step of that process left")
    with safe_open(folder / f"rank-{rank}.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Record(**_filled(read_json(folder / f"rank-{rank}.json", "the record of a step"), tensors))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Of PyTorch's generators, on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(random: dict[str, torch.Tensor]) -> None:
    """Of the CPU, and of the present GPU where there is one.

    Example:
        >>> before = random_state(torch.device("cpu"))
        >>> drawn = torch.rand(2)
        >>> restore_random_state(before)
        >>> torch.equal(torch.rand(2), drawn)
        True
    """
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


# --- trees of tensors ---------------------------------------------------------------------------------------------


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors with the names of their places, such as `inputs.0.context_mask.1`."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def _skeleton(tree: Any, name: str) -> Any:
    """For JSON: a tensor is the name of its place."""
    if isinstance(tree, torch.Tensor):
        return {"tensor": name}
    if isinstance(tree, dict):
        return {str(key): _skeleton(value, f"{name}.{key}" if name else str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_skeleton(value, f"{name}.{key}" if name else str(key)) for key, value in enumerate(tree)]
    return tree if isinstance(tree, str | int | float | bool | None) else repr(tree)


def _filled(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {"tensor"}:
            return tensors[tree["tensor"]]
        return {key: _filled(value, tensors) for key, value in tree.items()}
    return [_filled(value, tensors) for value in tree] if isinstance(tree, list) else tree


def _plain(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    return [_plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _finite(tensor: torch.Tensor) -> bool:
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _note(modules: list[str], name: str, output: Any) -> None:
    if any(not _finite(tensor) for _, tensor in _tensors(output)):
        modules.append(name)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} others" if len(names) > NAMED else "")


__all__ = ["Record", "load_nonfinite_step", "random_state", "report", "restore_random_state"]
