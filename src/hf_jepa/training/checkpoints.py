"""Checkpoints that are whole or absent, and runs that go on from the newest whole one."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hf_jepa.training.checkpoint_folders import (
    STAGING,
    checkpoint_folders,
    clear_staging,
    fault_of,
    file_sizes,
    fresh_folder,
    give_up,
    move_up,
    put_in_place,
    read_manifest,
    rotate,
    sync_tree,
    write_manifest,
)
from hf_jepa.training.checkpoint_writes import Writes, replaced


logger = logging.get_logger(__name__)

TRIES = 3  # saves in a row that may fail
AUTO = "auto"


class CheckpointMixin:
    """A `Trainer` whose checkpoints are written whole, verified before they are used, and exact to resume from.

    Saving: all processes write into a folder that no resume looks at; when all is on the disk the main process writes
    a manifest and renames the folder, see `checkpoint_folders`. A full disk costs that checkpoint and nothing else:
    the run says so and trains on; the third in a row ends it. Only after the rename `save_total_limit` removes older
    ones, never the only complete one. What `save_model` writes moves to its place file by file.

    Resuming: `resume_from_checkpoint=True` takes the newest checkpoint that is complete in all processes and names the
    damaged ones that it leaves out; `"auto"` also starts from the beginning where there is none yet, so the same
    command starts a run and continues it. The first loss that is logged is the mean since the last one logged, also
    where that was before the checkpoint.

    Raises:
        ValueError: no complete checkpoint, a damaged one, one of another engine, or of ZeRO with another number of
            processes.
        OSError: the third checkpoint in a row could not be written.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._writes: Writes | None = None  # while a checkpoint is saved
        self._failed_saves = 0
        super().__init__(*args, **kwargs)
        self.add_callback(_Unlogged(self))

    # --- saving -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self: Trainer, model, trial) -> None:
        final = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = final.parent / STAGING / final.name
        best, facts = self.state.best_model_checkpoint, self._facts()
        self._writes = writes = Writes(staged.parent, self.args.process_index)
        save, sizes = super()._save_checkpoint, []

        def begin() -> None:
            if self.args.should_save:
                fresh_folder(staged)

        def write() -> None:
            with writes.of_torch(), self._latest_of_deepspeed(staged):
                save(model, trial)
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))

        def keep() -> None:
            if self.args.local_process_index == 0:  # of every node: each has written files, and knows their sizes
                sync_tree(staged)
                sizes.append(file_sizes(staged))

        def finish() -> None:
            seen = sizes if self.args.save_on_each_node else gather_object(sizes)
            if self.args.should_save:
                write_manifest(staged, facts, seen)
                put_in_place(staged, final)

        try:
            for stage in (begin, write, keep, finish):
                with writes.noted():
                    stage()
                if failures := gather_object(writes.failures):  # of any process: then all stop here
                    break
        finally:
            self._writes = None
        if failures:
            self.state.best_model_checkpoint = best
            if self.args.should_save:
                give_up(staged)
            self._count_failure(final, failures)
            return
        self._failed_saves = 0
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            with _told():
                rotate(final.parent, self.args.save_total_limit, [final, self.state.best_model_checkpoint or final])

    def _count_failure(self, final: Path, failures: list[str]) -> None:
        self._failed_saves += 1
        free = f"{shutil.disk_usage(final.parent).free / 2**20:,.0f} MiB are free there"
        text = f"{final} could not be written, and what there was of it is removed ({free}): {'; '.join(failures)}"
        if self._failed_saves >= TRIES:
            raise OSError(
                f"{text}. {TRIES} checkpoints in a row were lost: make room (save_total_limit keeps fewer of them), "
                "and resume from the last one, which is intact"
            )
        logger.error(f"{text}. Earlier checkpoints are intact; training goes on to the next save")

    def _facts(self: Trainer) -> dict[str, Any]:
        """What a resume has to know of the run that wrote a checkpoint."""
        args = self.args
        return {
            "step": self.state.global_step,
            "world_size": args.world_size,
            "batch_size": _global_batch(args),
            "engine": self._engine(),
            "only_model": args.save_only_model,
            # The Trainer sums up losses on the device and forgets what was not logged yet.
            "logged_step": self._globalstep_last_logged,
            "unlogged_loss": gather_object([self._tr_loss.item()]),
        }

    def _engine(self: Trainer) -> str:
        """What cuts up optimizer states, which decides who can read them."""
        if self.is_deepspeed_enabled:
            return f"ZeRO-{self.accelerator.state.deepspeed_plugin.zero_stage}"
        return "FSDP" if self.is_fsdp_enabled else "one process or DDP"

    @contextmanager
    def _latest_of_deepspeed(self: Trainer, staged: Path) -> Iterator[None]:
        """DeepSpeed's pointer to its newest folder is written where a failure leaves no process waiting."""
        if not self.is_deepspeed_enabled or self.args.save_only_model:
            yield
            return
        engine = self.model_wrapped
        with replaced(engine, "save_checkpoint", partial(engine.save_checkpoint, save_latest=False)):
            yield
        if self.is_world_process_zero() or (self.args.save_on_each_node and self.args.should_save):
            (staged / "latest").write_text(f"global_step{engine.global_steps}", encoding="utf-8")

    def _get_output_dir(self: Trainer, trial) -> str:
        return super()._get_output_dir(trial) if self._writes is None else str(self._writes.staging)

    def _push_from_checkpoint(self: Trainer, checkpoint_folder: str) -> None:
        if self._writes is None:  # else it has another name yet
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self: Trainer, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self._writes is not None:
            with self._writes.noted():  # other processes wait, in steps that come after this
                super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        staged = folder / STAGING / "model"
        if self.args.should_save:
            fresh_folder(staged)
        super()._save(str(staged), state_dict)
        if self.args.should_save:
            move_up(staged, folder)

    # --- resuming -----------------------------------------------------------------------------------------------

    def train(self: Trainer, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        if self.args.should_save:
            clear_staging(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        folder = self._resume_folder(resume_from_checkpoint or None)
        if folder is not None:
            self._tell_differences(folder)
        elif self.is_world_process_zero() and (left := checkpoint_folders(self.args.output_dir)):
            logger.warning(
                f"{self.args.output_dir} holds {len(left)} checkpoints of an earlier run, and this one starts from "
                "the beginning: resume_from_checkpoint='auto' goes on with that one"
            )
        self._resumed = read_manifest(folder) if folder is not None else {}
        if self.is_world_process_zero() and 0 < self.args.max_steps <= self._resumed.get("step", 0):
            logger.warning(
                f"{folder} is of step {self._resumed['step']} and max_steps is {self.args.max_steps}: nothing is left "
                "to train"
            )
        return super().train(folder, *args, **kwargs)

    def _resume_folder(self: Trainer, asked: str | bool | None) -> str | None:
        if asked is None:
            return None
        if asked is not True and asked != AUTO:
            if faults := [fault for fault in gather_object([fault_of(asked)]) if fault]:
                raise ValueError(f"{asked} is no checkpoint to resume from: {faults[0]}")
            return str(asked)
        views = gather_object([{path.name: fault_of(path) for path in checkpoint_folders(self.args.output_dir)}])
        names = sorted({name for view in views for name in view}, key=lambda name: -int(name.rpartition("-")[2]))
        for name in names:
            faults = [view.get(name, "there is no such folder on this node") for view in views]
            if not any(faults):
                return str(Path(self.args.output_dir) / name)
            if self.is_world_process_zero():
                logger.warning(f"{name} is left out, it is not complete: {next(filter(None, faults))}")
        if asked == AUTO and not names:
            return None
        damaged = f"none of {len(names)} checkpoints there is complete" if names else "there is no checkpoint there"
        raise ValueError(f"nothing to resume from in {self.args.output_dir}: {damaged}")

    def _tell_differences(self: Trainer, folder: str) -> None:
        """Refuse a checkpoint that this run cannot read, and say in a line what will not be as it was."""
        manifest, told = read_manifest(folder), self.is_world_process_zero()
        if not manifest:
            if told:
                logger.warning(f"{folder} is of an earlier version: the sizes of its files cannot be checked")
            return
        engine, processes = self._engine(), self.args.world_size
        if not manifest["only_model"]:
            if manifest["engine"] != engine:
                raise ValueError(
                    f"{folder} was saved by {manifest['engine']}, and {engine} cannot read its optimizer states: "
                    "resume with the Accelerate config of that run, or start a new one from its weights"
                )
            if manifest["world_size"] != processes and engine.startswith("ZeRO"):
                raise ValueError(
                    f"{folder} was saved by {manifest['world_size']} processes: DeepSpeed cannot cut up its optimizer "
                    f"states anew for {processes}. Resume with as many, or start a new run from its weights"
                )
        differences = []
        if manifest["only_model"]:
            differences.append("the optimizer starts afresh (save_only_model)")
        if manifest["batch_size"] != _global_batch(self.args):
            differences.append(
                f"a step takes {_global_batch(self.args)} samples instead of {manifest['batch_size']}, so the order "
                "of samples is another"
            )
        if manifest["world_size"] != processes:
            differences.append(
                f"{processes} processes instead of {manifest['world_size']}: random states of the processes (dropout) "
                "are not restored and sums are rounded in another order; steps of the same size have the same samples"
            )
        if differences and told:
            logger.warning(f"{folder} is resumed with differences: {'; '.join(differences)}")


@contextmanager
def _told() -> Iterator[None]:
    """A checkpoint that cannot be removed is told and left."""
    try:
        yield
    except OSError as error:
        logger.error(f"an older checkpoint cannot be removed: {error}")


def require_same_model(
    model: nn.Module, load_result: Any, left_out: Callable[[str], bool] = lambda name: False
) -> None:
    """Refuse a checkpoint that leaves weights of a model as they were, or has others.

    Args:
        model: that was loaded into.
        load_result: names of `missing_keys` and `unexpected_keys`.
        left_out: whether a weight of that name is not in checkpoints on purpose.

    Raises:
        ValueError: it is one of another model.
    """
    tensors = model.state_dict(keep_vars=True)
    loaded = {id(value) for name, value in tensors.items() if name not in load_result.missing_keys}
    missing = [name for name in load_result.missing_keys if id(tensors[name]) not in loaded]  # others are tied
    missing = [name for name in missing if not left_out(name)]
    if missing or load_result.unexpected_keys:
        example = [*missing, *load_result.unexpected_keys][0]
        raise ValueError(
            f"the checkpoint is one of another model: {len(missing)} weights of this one are not in it, and "
            f"{len(load_result.unexpected_keys)} in it are not of this one, for example {example}"
        )


def _global_batch(args) -> int:
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


class _Unlogged(TrainerCallback):
    """Gives a resumed run the losses that the run before it had summed up for its next log."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer, resumed = self.trainer, self.trainer._resumed
        if not resumed:
            return
        losses = resumed["unlogged_loss"]
        own = losses[args.process_index] if len(losses) == args.world_size else sum(losses) / len(losses)
        trainer._tr_loss += own
        trainer._globalstep_last_logged = resumed["logged_step"]


__all__ = ["AUTO", "TRIES", "CheckpointMixin", "require_same_model"]
