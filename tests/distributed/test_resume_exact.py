"""Runs that are killed, asked to leave or left without disk go on as if nothing had been, bit for bit.

What strikes, and when, is drawn from a seed that a failing test shows; HF_JEPA_FAULT_SEED repeats one.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import forks
import pytest
from resume_processes import EVERY, STEPS, make_runs

from hf_jepa.training.checkpoint_folders import STAGING, checkpoint_folders, fault_of
from hf_jepa.training.preemption import EXIT_STATUS, MARKER


pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(1500),  # a busy machine; about 100 s otherwise
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is an extra"),
]

TESTS = Path(__file__).parents[1]
ENGINES = {"ddp": "plain", "zero1": 1, "zero3": 3}
OPTIONS = {
    "single": {"gradient_accumulation_steps": 2},
    "ddp": {"gradient_accumulation_steps": 2},
    "zero1": {"dataloader_num_workers": 1},
    "zero3": {},
}


def job(name: str, run: str, **more) -> dict:
    options = OPTIONS[name] | more.pop("options", {})
    return {"run": run, "note": run, "engine": ENGINES.get(name, "plain"), "options": options} | more


class Story:
    """A folder of runs, what was launched there, and what it noted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seed = int(os.environ.get("HF_JEPA_FAULT_SEED", random.SystemRandom().randrange(10**6)))
        print(f"HF_JEPA_FAULT_SEED={self.seed}")
        self.draw = random.Random(self.seed)

    def make(self, processes: int, *jobs: dict) -> list[int | None]:
        """Runs, one after the other in the same processes; how these end."""
        started = forks.start(make_runs, self.folder, jobs, logs=self.folder, processes=processes)
        codes = forks.statuses(started, timeout=600)
        self.printed = (self.folder / "make_runs-0.log").read_text()
        print(f"seed {self.seed}, {processes} process(es), statuses {codes}: {jobs}\n{self.printed[-3000:]}")
        return codes

    def launch(self, *jobs: dict) -> int:
        """The same in two processes of `accelerate launch`."""
        command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision=no", "--num_machines=1"]
        command += ["--num_processes=2", "--main_process_port=0", str(TESTS / "resume_processes.py"), str(self.folder)]
        paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": paths, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command, json.dumps(jobs)], env=environment, capture_output=True, text=True, timeout=600
        )
        print(f"seed {self.seed}, launched, status {done.returncode}: {jobs}\n{done.stderr[-3000:]}")
        return done.returncode

    def notes(self, name: str, rank: int = 0) -> dict[tuple[int, str], list]:
        """(step, kind) -> what a process noted then."""
        found = defaultdict(list)
        for line in (self.folder / f"{name}-{rank}.jsonl").read_text().splitlines():
            step, kind, value = json.loads(line)
            found[step, kind].append(value)
        return found

    def fault(self, name: str, ranks: int) -> dict:
        """All processes are killed as a step begins, or while they write a checkpoint."""
        rank = self.draw.randrange(ranks)
        if self.draw.random() < 0.25:
            return {"rank": rank, "kind": "step", "step": self.draw.randint(EVERY + 1, STEPS)}
        return self.write(name, rank, "write", self.draw.choice(range(EVERY, STEPS + 1, EVERY)))

    def write(self, name: str, rank: int, kind: str, step: int) -> dict:
        return {"rank": rank, "kind": kind, "step": step, "share": self.draw.random(), "like": name}


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    """Whole runs, the same killed, and those resumed; each launch ends with the run that is killed in it."""
    story = Story(tmp_path_factory.mktemp("story"))

    def victim(name: str, ranks: int) -> dict:
        return job(name, f"{name}_struck", fault=story.fault(name, ranks), resume="auto")

    def resumed(name: str, **more) -> dict:
        return job(name, f"{name}_struck", note=f"{name}_resumed", resume="auto", **more)

    assert story.make(1, job("single", "single"), victim("single", 1)) == [-9]
    assert story.make(2, *(job(name, name) for name in ENGINES), victim("ddp", 2)) == [-9, -9]
    assert story.make(2, resumed("ddp"), victim("zero1", 2)) == [-9, -9]
    assert story.make(2, resumed("zero1"), victim("zero3", 2)) == [-9, -9]
    story.left = story.make(
        2,
        resumed("zero3"),
        job("ddp", "wider", resume=f"single/checkpoint-{EVERY}"),
        job("ddp", "ddp_full", fault=story.write("ddp", 0, "full", 2 * EVERY)),
        job("zero3", "zero3_full", fault=story.write("zero3", 1, "full", 2 * EVERY)),
        job("ddp", "asked", fault={"rank": 1, "kind": "leave", "step": 6}, options={"logging_steps": 5}),
    )
    story.full = story.printed
    story.launched = story.launch(
        job("ddp", "asked", note="asked_resumed", resume="auto", options={"logging_steps": 5}),
        job("zero1", "stopped", fault={"rank": 0, "kind": "launcher", "step": 6}),
    )
    narrower = job("single", "narrower", resume=f"ddp/checkpoint-{EVERY}")
    assert story.make(1, resumed("single"), narrower) == [0]
    return story


def equal_from_there(story: Story, whole: str, resumed: str, ranks: int, kinds=("masks", "loss", "weights")) -> None:
    """What a resumed run notes is what the whole run noted, and reaches to the end."""
    for rank in range(ranks):
        expected, found = story.notes(whole, rank), story.notes(resumed, rank)
        first = min(step for step, _ in found)
        wanted = {key: value for key, value in expected.items() if key[0] >= first and key[1] in kinds}
        assert {key: found.get(key) for key in wanted} == wanted, f"seed {story.seed}, process {rank}"
        assert any(step == STEPS and kind == "weights" for step, kind in wanted)


@pytest.mark.parametrize(("name", "ranks"), [("single", 1), ("ddp", 2), ("zero1", 2), ("zero3", 2)])
def test_a_killed_run_goes_on_bit_for_bit(story, name, ranks):
    equal_from_there(story, name, f"{name}_resumed", ranks)
    folders = checkpoint_folders(story.folder / f"{name}_struck")
    assert [path.name for path in folders] == ["checkpoint-12", "checkpoint-8", "checkpoint-4"]
    assert all(fault_of(path) is None for path in folders)
    assert not (story.folder / f"{name}_struck" / STAGING).exists()


@pytest.mark.parametrize(("name", "ranks"), [("ddp", 2), ("zero3", 2)])
def test_a_full_disk_costs_one_checkpoint(story, name, ranks):
    equal_from_there(story, name, f"{name}_full", ranks)
    folders = checkpoint_folders(story.folder / f"{name}_full")
    assert [path.name for path in folders] == ["checkpoint-12", "checkpoint-4"]
    assert all(fault_of(path) is None for path in folders)
    assert "No space left on device" in story.full and "training goes on to the next save" in story.full


def test_all_processes_leave_after_the_same_step_with_the_status_that_requeues(story):
    last = [max(step for step, kind in story.notes("asked", rank) if kind == "weights") for rank in (0, 1)]
    assert last == [7, 7]  # asked in the sixth step, all know after the next
    assert checkpoint_folders(story.folder / "asked")[-2].name == "checkpoint-7"
    assert story.left == [EXIT_STATUS] * 2
    equal_from_there(story, "ddp", "asked_resumed", 2, kinds=("masks", "weights"))
    # What was not logged yet is part of the next log.
    means = [sum(story.notes("ddp")[step, "loss"][0] for step in steps) / 5 for steps in (range(1, 6), range(6, 11))]
    assert story.notes("asked")[5, "loss"] == pytest.approx([means[0]], rel=1e-6)
    assert story.notes("asked_resumed")[10, "loss"] == pytest.approx([means[1]], rel=1e-6)


def test_a_launcher_that_is_asked_to_leave_lets_its_processes_save(story):
    assert checkpoint_folders(story.folder / "stopped")[0].name == "checkpoint-7"
    assert fault_of(story.folder / "stopped/checkpoint-7") is None
    assert (story.folder / "stopped" / MARKER).read_text() == "7\n"
    assert not (story.folder / "asked" / MARKER).exists()  # it was resumed
    assert story.launched == 1  # its own; hence the file


@pytest.mark.parametrize(("whole", "other", "ranks"), [("single", "wider", (1, 2)), ("ddp", "narrower", (2, 1))])
def test_another_number_of_processes_sees_the_same_samples_in_each_step(story, whole, other, ranks):
    def samples(name: str, count: int) -> dict[int, list[int]]:
        found = defaultdict(list)
        for rank in range(count):
            for (step, kind), values in story.notes(name, rank).items():
                if kind == "masks":
                    found[step] += [index for indices, _ in values for index in indices]
        return {step: sorted(indices) for step, indices in found.items()}

    expected, found = samples(whole, ranks[0]), samples(other, ranks[1])
    assert found == {step: expected[step] for step in range(EVERY + 1, STEPS + 1)}
