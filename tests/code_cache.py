"""Where transformers keeps code that lies beside weights: a folder of the tests, for all of a process."""

import pytest
from transformers import dynamic_module_utils


@pytest.fixture(scope="session", autouse=True)
def code_cache(tmp_path_factory):
    """Once for all modules that import this: what is imported from the folder looks for its neighbours there."""
    if not hasattr(dynamic_module_utils, "cache_of_tests"):
        dynamic_module_utils.cache_of_tests = str(tmp_path_factory.mktemp("modules"))
        dynamic_module_utils.HF_MODULES_CACHE = dynamic_module_utils.cache_of_tests
