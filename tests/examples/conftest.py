"""Examples import one another, as the scripts of a folder do."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def folder_of_examples():
    with pytest.MonkeyPatch.context() as change:
        change.syspath_prepend(Path(__file__).parents[2] / "examples")
        yield
