"""Reading from files that may be slow, broken or gone: with a time limit, several attempts, and then a reason."""

import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hf_jepa.data.shard_index import open_shard


OPEN_FILES = 16
Result = TypeVar("Result")


class ShardError(OSError):
    """A shard that cannot be read; it stands in the place of the images or videos that it holds.

    Args:
        path: of the shard.
        reason: why it cannot be read.

    Example:
        >>> str(ShardError("a.tar", "3 attempts, the last one: no such file"))
        'a.tar: 3 attempts, the last one: no such file'
    """

    def __init__(self, path: str, reason: str):
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

    def __reduce__(self):
        return ShardError, (self.path, self.reason)


@dataclass(frozen=True)
class ReadLimits:
    """How much patience a shard deserves.

    Args:
        timeout: seconds that one read may take.
        retries: further attempts after one that failed.
        pause: seconds before the second attempt; twice as long before each further one.

    Raises:
        ValueError: a number below 0, or no time at all.

    Example:
        >>> ReadLimits(timeout=30).retries
        3
    """

    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0

    def __post_init__(self):
        if not self.timeout > 0 or self.retries < 0 or self.pause < 0:
            raise ValueError(f"a read needs a timeout above 0, and retries and a pause of 0 or more: {self}")


class OpenFiles:
    """The files that a thread has open, of which the one that was used longest ago makes room for a new one."""

    def __init__(self):
        self._files: OrderedDict[str, Any] = OrderedDict()

    def get(self, path: str, wrap: Callable[[Any], Any] = lambda file: file) -> Any:
        """What `wrap` makes of the open file: of a parquet file a reader that knows its footer."""
        if path not in self._files:
            # Without read-ahead, because rows are not asked for in their order.
            self._files[path] = wrap(open_shard(path, cache_type="none"))
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


class PatientReader:
    """Reads in a thread of its own, because a read of a file system that hangs cannot be interrupted.

    A thread whose read takes too long is left behind, with its open files; the next attempt has a new one.

    Args:
        limits: of time and attempts.

    Example:
        >>> reader = PatientReader(ReadLimits(retries=1, pause=0.0))
        >>> reader("a.tar", lambda files: 7)
        7
    """

    def __init__(self, limits: ReadLimits):
        self.limits = limits
        self._forget()

    def __call__(self, path: str, read: Callable[[OpenFiles], Result]) -> Result:
        """What `read` returns, which may do nothing but read from a shard.

        Raises:
            ShardError: every attempt failed.
        """
        for attempt in range(self.limits.retries + 1):
            if attempt:
                time.sleep(self.limits.pause * 2 ** (attempt - 1))
            answer = self._within_time(read)
            if not isinstance(answer, Exception):
                return answer
        attempts = f"{attempt + 1} attempts, the last one: " if attempt else ""
        raise ShardError(path, f"{attempts}{answer}" if str(answer) else f"{attempts}{answer!r}") from answer

    def _within_time(self, read: Callable[[OpenFiles], Result]) -> Result | Exception:
        if self._process != os.getpid():  # threads stay behind in the process that was forked
            self._forget()
        if self._asked is None:
            self._asked, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            threading.Thread(target=_answer, args=(self._asked, self._answers), daemon=True).start()
        self._asked.put(read)
        try:
            return self._answers.get(timeout=self.limits.timeout)
        except queue.Empty:
            self._asked.put(None)  # should it ever return
            self._forget()
            return TimeoutError(f"no answer within {self.limits.timeout:g} s")

    def _forget(self) -> None:
        self._process, self._asked, self._answers = os.getpid(), None, None

    def __del__(self):
        if self._asked is not None and self._process == os.getpid():
            self._asked.put(None)

    def __getstate__(self) -> dict[str, Any]:
        return {"limits": self.limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def _answer(asked: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """The thread of a reader."""
    files = OpenFiles()
    while (read := asked.get()) is not None:
        try:
            answers.put(read(files))
        except Exception as error:  # of whatever library is behind the address; the reader tells it
            files.close()  # a file that was replaced is opened anew
            answers.put(error)
    files.close()


__all__ = ["OpenFiles", "PatientReader", "ReadLimits", "ShardError"]
