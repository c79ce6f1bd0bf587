"""The thread that ends a process which waits in vain, without processes; with them: `make test-distributed`."""

import threading
import time

import pytest
import torch.distributed as dist

from hf_jepa.training.watchdog import FIRST, Watchdog


INTERVAL = 0.02


@pytest.fixture
def ended(monkeypatch):
    """Instead of ending the process, threads leave here what they would have said of the others."""
    found = []

    def end(self, missed):
        found.append([str(status) for status in missed])
        self._stopped.set()

    monkeypatch.setattr(Watchdog, "_end", end)
    return found


def make(store, rank: int = 0, timeout: float = 0.2) -> Watchdog:
    return Watchdog(store, rank, world_size=2, timeout=timeout, grace=0.1, interval=INTERVAL)


def watch(watchdog: Watchdog, ends: bool) -> None:
    """Until it ends the process, however late on a busy machine, or long enough to see that it does not."""
    watchdog.start()
    watchdog._stopped.wait(30 if ends else 0.6)
    watchdog.stop()


@pytest.mark.parametrize(("phase", "ends"), [("step", True), ("data", True), ("end", False)])
def test_a_process_without_progress_is_ended_unless_it_asks_the_others_itself(ended, phase, ends):
    watchdog = make(dist.HashStore())
    watchdog.beat(1, "data")
    watchdog.beat(1, phase)
    watch(watchdog, ends)
    assert ended == [[]] * ends


def test_progress_keeps_it_alive(ended):
    watchdog = make(dist.HashStore(), timeout=0.6)
    watchdog.start()
    for step in range(1, 10):
        watchdog.beat(step, "data")
        time.sleep(0.1)
    watchdog.stop()
    assert ended == []


def test_the_first_step_may_take_longer(ended):
    watchdog = make(dist.HashStore())
    watchdog.beat(0, "step")
    watch(watchdog, ends=False)
    assert ended == [] and FIRST * 0.2 > 0.6


@pytest.mark.parametrize(("phase", "ends"), [("step", True), ("data", False)])
def test_who_waits_for_one_that_raised_is_ended_after_the_grace(ended, phase, ends):
    store = dist.HashStore()
    one, other = make(store, timeout=60), make(store, rank=1, timeout=60)
    one.beat(3, "data")
    one.beat(3, phase)
    other.raised(ValueError("no data"))
    watch(one, ends)
    assert ended == [["rank 1, after step 0, raised ValueError: no data"]] * ends


def test_a_process_without_batches_names_those_that_have_some(ended):
    store = dist.HashStore()
    one, other = make(store, timeout=60), make(store, rank=1, timeout=60)
    one.beat(2, "data")
    one.beat(2, "step")
    one.start()
    other.beat(2, "end")
    with pytest.raises(RuntimeError, match="(?s)equally many batches\nrank 1 finished.* step 2\nrank 0 is in step 3"):
        other.meet()
    one.stop()
    assert ended == [["rank 1 finished its data after step 2"]]


def test_a_process_that_nobody_meets_gives_up(ended):
    alone = make(dist.HashStore(), timeout=0.1)
    alone.beat(2, "end")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="rank 0 finished its data after step 2"):
        alone.meet()
    assert time.monotonic() - start > 0.1


def test_processes_that_come_to_the_same_end_meet(ended):
    store = dist.HashStore()
    both = [make(store, rank, timeout=60) for rank in range(2)]
    threads = [threading.Thread(target=each.meet) for each in both]
    for each in both:
        each.beat(2, "end")
    threads[0].start()
    time.sleep(0.2)
    assert threads[0].is_alive()  # it waits
    threads[1].start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
