"""What holds in every test."""

import random

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same numbers alone, in its file and in any order."""
    random.seed(0)
    torch.manual_seed(0)
