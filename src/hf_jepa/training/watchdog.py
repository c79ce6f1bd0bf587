"""Processes of one run that no longer do the same: named and ended, instead of waiting for each other for ever."""

import faulthandler
import itertools
import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback


STALLED = 70  # exit status of a process that waited in vain
GRACE = 10.0  # seconds that a process waits for one that has ended
FIRST = 10  # times longer may the first step take
_RUNS = itertools.count()


@dataclass
class WatchdogArguments:
    """The part of a run's arguments that `WatchdogMixin` reads."""

    stall_timeout: float = field(
        default=1800.0,
        metadata={"help": "Several processes: seconds without any progress after which the run is ended; 0: never."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.stall_timeout < 0:
            raise ValueError(f"stall_timeout={self.stall_timeout} must not be negative")


@dataclass
class Status:
    """Where a process is.

    Attributes:
        rank: of the process.
        step: optimizer steps that it has finished.
        phase: "step"; "data" between steps, which is also logs and checkpoints; "end" after the last batch of an
            epoch; "raised"; "gone"; or another place in words.
        detail: what it raised; or, where it waits, which functions of Python do.
        idle: seconds since its last progress, when it said so.
    """

    rank: int
    step: int = 0
    phase: str = "start"
    detail: str = ""
    idle: float = 0.0

    def __str__(self) -> str:
        if self.phase == "raised":
            return f"rank {self.rank}, after step {self.step}, raised {self.detail}"
        if self.phase == "gone":
            return f"the store of the run is gone, and with it rank 0 or the launcher ({self.detail})"
        if self.phase == "end":
            return f"rank {self.rank} finished its data after step {self.step}"
        place = f"in step {self.step + 1}" if self.phase == "step" else f"after step {self.step}, at {self.phase}"
        return f"rank {self.rank} is {place}, without progress for {self.idle:.0f} s: {self.detail}"

    def misses(self, other: "Status") -> bool:
        """Whether this process waits in a step that the other one will never make."""
        ended = other.phase in ("raised", "gone") or (other.phase == "end" and other.step <= self.step)
        return ended and self.phase == "step"


class WatchdogMixin:
    """A `Trainer` whose processes tell each other where they are, so that none waits for ever for one that has ended.

    A thread of every process writes its step and phase to the key-value store over which the processes met, every few
    seconds and without any collective operation. The run ends, with a status other than 0 and a report that names the
    processes and shows what this one was doing,

    - when a process raised an exception, or has no more batches while others have: after ten seconds,
    - when a process made no progress for `stall_timeout` seconds, ten times as many before the end of its first step.
      Steps, accumulated batches, evaluated batches and checkpoints are progress.

    With one process there is nothing to watch.

    Raises:
        RuntimeError: this process has no more batches, but others do.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._watchdog: Watchdog | None = None
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks.insert(0, _Progress(self))  # before others start to communicate

    def has_batches(self: Trainer, batches: list[Any]) -> None:
        """Say that this process will make a step, before anything is counted over the processes."""
        if batches and self._watchdog is not None:
            self._watchdog.beat(self.state.global_step, "step")

    def _get_num_items_in_batch(self: Trainer, batch_samples: list[Any], device: torch.device):
        self.has_batches(batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def train(self: Trainer, *args: Any, **kwargs: Any):
        several = self.args.world_size > 1 and dist.is_initialized() and self.args.stall_timeout > 0
        if not several:
            return super().train(*args, **kwargs)
        self._watchdog = Watchdog(open_store(), self.args.process_index, self.args.world_size, self.args.stall_timeout)
        self._watchdog.start()
        try:
            return super().train(*args, **kwargs)
        except BaseException as error:
            self._watchdog.raised(error)
            raise
        finally:
            self._watchdog.stop()
            self._watchdog = None


class _Progress(TrainerCallback):
    """Every event is progress."""

    def __init__(self, trainer: WatchdogMixin):
        self.trainer = trainer

    def _beat(self, state, phase: str) -> None:
        if (watchdog := self.trainer._watchdog) is not None:
            watchdog.beat(state.global_step, phase)

    def on_train_begin(self, args, state, control, **kwargs):
        self._beat(state, "start")

    def on_step_begin(self, args, state, control, **kwargs):
        self._beat(state, "step")

    on_substep_end = on_optimizer_step = on_step_begin

    def on_step_end(self, args, state, control, **kwargs):
        self._beat(state, "data")

    on_log = on_save = on_epoch_begin = on_step_end

    def on_prediction_step(self, args, state, control, **kwargs):
        self._beat(state, "evaluation")

    on_evaluate = on_prediction_step

    def on_epoch_end(self, args, state, control, **kwargs):
        """Not before all processes have made their last step of the epoch."""
        if (watchdog := self.trainer._watchdog) is not None:
            watchdog.beat(state.global_step, "end")
            watchdog.meet()
            watchdog.beat(state.global_step, "the end of an epoch")

    def on_train_end(self, args, state, control, **kwargs):
        self._beat(state, "the end of the run")


class Watchdog:
    """The thread of one process, and what it knows.

    Args:
        store: of all processes.
        rank, world_size: of this process, and how many there are.
        timeout: seconds without progress after which the process is ended.
        grace: seconds without progress after which it is, where another one has ended.
        interval: seconds between two looks.

    Example:
        >>> store = dist.HashStore()
        >>> one, other = (Watchdog(store, rank, world_size=2, timeout=60) for rank in range(2))
        >>> one.beat(3, "step")
        >>> other.raised(ValueError("no data"))
        >>> [str(status) for status in one.missed()]
        ['rank 1, after step 0, raised ValueError: no data']
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        timeout: float,
        grace: float = GRACE,
        interval: float | None = None,
    ):
        self.store, self.world_size = store, world_size
        self.timeout, self.grace = timeout, min(grace, timeout)
        self.interval = min(5.0, self.grace / 4) if interval is None else interval
        self.status, self._moved = Status(rank), time.monotonic()
        self._meetings, self._steps = 0, False  # whether it has made a step
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self.interval + 5)

    # --- of this process ----------------------------------------------------------------------------------------

    def beat(self, step: int, phase: str) -> None:
        """Progress; touches nothing but this object."""
        self._steps |= step != self.status.step and phase == "data"
        self.status, self._moved = Status(self.status.rank, step, phase), time.monotonic()

    def raised(self, error: BaseException) -> None:
        """Tell the others why this process ends, and whoever reads this log why it may have ended."""
        text = (str(error).splitlines() or [""])[0]
        own = Status(self.status.rank, self.status.step, "raised", f"{type(error).__name__}: {text}"[:400])
        missed = self.missed()  # a process that ended takes away the connections of those that wait for it
        self.status = own
        try:
            self._publish()
            self.store.add("ended", 1)
        except dist.DistError as broken:
            print(f"the others cannot be told: {broken}", file=sys.stderr)
        print("\n".join(map(str, [*missed, own])), file=sys.stderr, flush=True)

    def meet(self) -> None:
        """Wait until all processes are here.

        Raises:
            RuntimeError: others wait in a step that this process has no data for, or none came in time.
        """
        self._meetings += 1
        name, start = f"meeting {self._meetings}", time.monotonic()
        came, pause, looked = self.store.add(name, 1), 0.001, start
        while came < self.world_size:
            time.sleep(pause)
            came, pause, now = self.store.add(name, 0), min(2 * pause, 0.2), time.monotonic()
            if now - looked < self.interval:
                continue
            if looked == start:  # a long wait: the others may wait for this process, too
                self._publish()
                self.store.add("ended", 1)
            looked, others = now, self.others()
            waiting = [s for s in others if s.phase == "raised" or (s.misses(self.status) and s.idle > self.grace)]
            if waiting or now - start > self.timeout:
                rows = "\n".join(map(str, [self.status, *(waiting or others)]))
                raise RuntimeError(
                    "the processes of this run do not make the same number of steps: give all of them equally many "
                    f"batches\n{rows}"
                )

    # --- of the others ------------------------------------------------------------------------------------------

    def others(self) -> list[Status]:
        """What the other processes last said of themselves."""
        keys = [f"rank {rank}" for rank in range(self.world_size) if rank != self.status.rank]
        return [Status(**json.loads(self.store.get(key))) for key in keys if self.store.check([key])]

    def missed(self) -> list[Status]:
        """The processes that have ended, although this one waits for them."""
        try:
            if self.store.add("ended", 0) == 0:  # one key for all, as long as nobody has ended
                return []
            return [status for status in self.others() if self.status.misses(status)]
        except dist.DistError as error:
            # Its keeper, an agent of the launcher or the first process, is no more.
            return [Status(0, self.status.step, "gone", str(error).splitlines()[0])]

    # --- the thread ---------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self.status.idle = time.monotonic() - self._moved
        if self.status.phase != "raised":
            self.status.detail = where_main_is() if self.status.idle > self.interval else ""
        self.store.set(f"rank {self.status.rank}", json.dumps(vars(self.status)))

    def _run(self) -> None:
        while not self._stopped.wait(self.interval):
            # The first step also starts loaders and compiles.
            idle = (time.monotonic() - self._moved) / (1 if self._steps else FIRST)
            with suppress(dist.DistError):  # `missed` says so
                self._publish()
            if self.status.phase == "end":  # `meet` looks itself, and knows more
                continue
            missed = self.missed() if idle > self.grace else []
            if (missed or idle > self.timeout) and not self._stopped.is_set():
                self._end(missed)

    def _end(self, missed: list[Status]) -> None:
        rows = [self.status, *(missed or self.others())]
        lines = [f"no progress for {time.monotonic() - self._moved:.0f} s, this process is ended", *map(str, rows)]
        behind = min(rows, key=lambda status: status.step)
        if not missed and behind.step < max(status.step for status in rows):
            lines.append(f"rank {behind.rank} is behind: look there")
        print("\n".join(lines), file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        os._exit(STALLED)


def where_main_is() -> str:
    """The innermost functions of the main thread that are not part of PyTorch or of Python."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    names = []
    while frame is not None and len(names) < 3:
        if not frame.f_globals.get("__name__", "").startswith(("torch.", "threading")):
            names.append(f"{frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(names)


def open_store() -> dist.Store:
    """A connection of its own to the store over which the processes met, with names of its own."""
    store = dist.distributed_c10d._get_default_store().clone()
    return dist.PrefixStore(f"hf_jepa/watchdog/{next(_RUNS)}", store)


__all__ = ["STALLED", "Status", "Watchdog", "WatchdogArguments", "WatchdogMixin"]
