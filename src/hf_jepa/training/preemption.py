"""What a run does when the machine is taken away from it: it saves, and leaves so that it is queued again."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from hf_jepa.hub.files import new_name
from hf_jepa.training.program import leave_together


logger = logging.get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers; SIGUSR1 is what SLURM's --signal is often told to send
EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
MARKER = "_preempted"  # uploads leave out names that begin with an underscore
SAME_REQUEST = 5.0  # seconds: a launcher passes on a signal that the scheduler has also sent to its processes


class Preempted(SystemExit):
    """The run was asked to leave, has saved a checkpoint and left its process group; nothing can follow but the end.

    Not caught, it ends the process with status 75, which schedulers can be told to queue again.

    Args:
        step: optimizer steps that were done.

    Example:
        >>> Preempted(12).code, Preempted(12).step
        (75, 12)
    """

    def __init__(self, step: int):
        super().__init__(EXIT_STATUS)
        self.step = step


class PreemptionMixin:
    """A `Trainer` that on SIGTERM or SIGUSR1 ends its step, saves a checkpoint and raises `Preempted`.

    All processes leave after the same step, whichever of them got the signal: with several, the one after the next at
    the latest. A run that does its last step anyway ends as usual. A second signal, later than five seconds after the
    first, kills at once.

    An evaluation that is due in that step is left out. Beside the status a file `_preempted` in the output folder says
    that the run wants to go on, because launchers have a status of their own.

    Raises:
        Preempted: the run was asked to leave.
        ValueError: enable_jit_checkpoint, which does the same in one process.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.enable_jit_checkpoint:
            raise ValueError("enable_jit_checkpoint: leave it out, every run saves and leaves on SIGTERM")
        self._leave_request = _LeaveRequest()
        self._stop_agreement = _Agreement(self)
        self.add_callback(self._stop_agreement)

    def train(self: Trainer, *args: Any, **kwargs: Any):
        if self.is_world_process_zero():
            (Path(self.args.output_dir) / MARKER).unlink(missing_ok=True)
        self._stop_agreement.begin()
        try:
            with self._leave_request:
                return super().train(*args, **kwargs)
        except Preempted as preempted:
            self.is_in_train = False
            self.callback_handler.on_train_end(self.args, self.state, self.control)  # trackers write what they hold
            if self.is_world_process_zero():
                with new_name(Path(self.args.output_dir) / MARKER) as path:
                    path.write_text(f"{preempted.step}\n", encoding="utf-8")
                logger.warning(
                    f"asked to leave: stopped after step {preempted.step}; the same run with "
                    "resume_from_checkpoint=auto goes on"
                )
            leave_together(self)
            raise


class _Agreement(TrainerCallback):
    """Makes all processes stop after the same step.

    Every process sends off after each step whether it was asked to leave, and reads the answer of all after the next
    one: no process waits, nor does a device.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._group = None

    def begin(self) -> None:
        """In all processes."""
        self._sent: tuple[distributed.Work, torch.Tensor] | None = None
        self._leaving = False
        if self._group is None and self.trainer.args.world_size > 1:
            self._group = distributed.new_group(backend="gloo")

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked() and not control.should_training_stop:  # the last step: the run ends as it would have
            self._leaving = True
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args, state, control, **kwargs):
        if self._leaving:
            raise Preempted(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self._answer()

    def _asked(self) -> bool:
        asked = self.trainer._leave_request.received
        if self._group is None:
            return asked
        if self._answer():
            return True
        flag = torch.tensor(int(asked), dtype=torch.int32)
        self._sent = distributed.all_reduce(flag, distributed.ReduceOp.MAX, self._group, async_op=True), flag
        return False

    def _answer(self) -> bool:
        """Whether any process had been asked when the question was sent."""
        if self._sent is None:
            return False
        work, flag = self._sent
        self._sent = None
        work.wait()
        return bool(flag)


class _LeaveRequest:
    """Handlers of the signals while a `with` block runs; those from before are put back after it."""

    def __init__(self):
        self._since: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether one of the signals came."""
        return self._since is not None

    def __enter__(self) -> "_LeaveRequest":
        self._since = None
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
            _spare_children(True)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            # None: set outside of Python, and not to be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        _spare_children(False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Only take note: a handler runs in the middle of anything."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


# A scheduler may signal every process there is, but the step that is to be finished needs the workers of the data
# loader: those that are forked in a run heed such signals from their parent alone, as the loader does when it ends.
_sparing = threading.Event()


def _spare_children(wanted: bool) -> None:
    global _registered
    if wanted and not _registered and hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere they die of it
        os.register_at_fork(after_in_child=_begin_child)
        _registered = True
    (_sparing.set if wanted else _sparing.clear)()


_registered = False


def _begin_child() -> None:
    if _sparing.is_set():
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_heed, args=(os.getppid(),), daemon=True).start()


def _heed(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)


__all__ = ["EXIT_STATUS", "MARKER", "Preempted", "PreemptionMixin"]
