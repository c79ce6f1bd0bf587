"""Losses that are statistics of a batch have, through whole models, the gradient of the batch of all processes."""

import forks
import pytest
import torch
from batch_statistics_processes import CASES, compare_gradients, gradients


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The file with the gradients of a single process."""
    file = tmp_path_factory.mktemp("statistics") / "alone.pt"
    torch.save({name: gradients(name) for name in CASES}, file)
    return file


@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_of_several_processes_are_those_of_one(alone, tmp_path, processes):
    printed = forks.run(compare_gradients, alone, logs=tmp_path, processes=processes)
    assert printed.count(f" {processes} processes: ") == len(CASES), printed
