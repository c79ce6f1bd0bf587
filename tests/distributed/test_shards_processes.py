"""Two processes with two workers each on shards: who reads what, resuming, and a shard that is gone."""

import json

import forks
import pytest
import torch
from shard_files import EVEN, shard_trainer, write_tars
from shard_processes import BATCH, SAVED, STEPS, train_on_shards

from hf_jepa.data.shard_names import find_shards


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(the run of a single process, name -> what each of two processes found, their folder)"""
    folder = tmp_path_factory.mktemp("shards")
    pattern = write_tars(folder / "shards", EVEN)
    steps = {"per_device_train_batch_size": 2 * BATCH, "max_steps": 2 * STEPS}
    alone = shard_trainer(folder / "alone", find_shards(pattern), save_strategy="steps", save_steps=SAVED, **steps)
    alone.train()
    forks.run(train_on_shards, pattern, str(folder / f"alone/checkpoint-{SAVED}"), folder, logs=folder)
    names = ("whole", "resumed", "of one", "broken")
    return (
        alone,
        {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in names},
        folder,
    )


def rows_of(found):
    return [row for batch in found["seen"] for row in batch]


def read_by(found):
    """process id of a worker -> rows"""
    reads = {}
    for _, member, process in found["reads"]:
        reads.setdefault(process, []).append(int(member.partition(".")[0]))
    return reads


def test_epochs_are_complete_and_shards_have_one_reader(runs):
    whole = runs[1]["whole"]
    for epoch in (slice(0, STEPS), slice(STEPS, None)):
        rows = [row for found in whole for batch in found["seen"][epoch] for row in batch]
        assert sorted(rows) == list(range(sum(EVEN)))
    assert whole[0]["seen"][:STEPS] != whole[0]["seen"][STEPS:]
    workers = [rows for found in whole for rows in read_by(found).values()]
    assert len(workers) == 4  # the same ones in both epochs
    assert sorted(sum(workers, [])) == sorted(2 * list(range(sum(EVEN))))
    for epoch in (0, 1):
        half = len(workers[0]) // 2
        shards = [{row // EVEN[0] for row in rows[epoch * half : (epoch + 1) * half]} for rows in workers]
        assert [len(each) for each in shards] == [2] * 4 and len(set.union(*shards)) == len(EVEN)


def test_a_resumed_run_is_the_uninterrupted_one(runs):
    _, found, folder = runs
    for rank in (0, 1):
        whole, resumed = found["whole"][rank], found["resumed"][rank]
        assert resumed["seen"] == whole["seen"][SAVED:]
        assert sorted(sum(read_by(resumed).values(), [])) == sorted(rows_of(resumed))  # and nothing that was skipped
        first, second = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for name in ("whole", "resumed"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_one_process_goes_on_with_two(runs):
    alone, found, folder = runs
    batches = [first + second for first, second in zip(*(each["seen"] for each in found["of one"]), strict=True)]
    assert batches == alone.seen[SAVED:]
    weights, others = alone.model.state_dict(), torch.load(folder / "of one-0.pt", weights_only=True)
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=1e-6)


def test_a_shard_that_is_gone_stops_nobody(runs):
    broken = runs[1]["broken"]
    assert [each["step"] for each in broken] == [STEPS, STEPS]
    seen = set(rows_of(broken[0]) + rows_of(broken[1]))
    assert set(range(sum(EVEN))) - seen == set(range(24, 32))
    assert broken[0]["skipped"] == broken[1]["skipped"] and len(broken[0]["skipped"]) == 1
    assert "train-03.tar: 3 attempts, the last one: [Errno 2]" in broken[0]["skipped"][0]
