"""Where transformers keeps code that lies beside weights: a folder of the tests, for all of a process."""

import importlib
import sys

import pytest
from transformers import dynamic_module_utils


@pytest.fixture(scope="session", autouse=True)
def code_cache(tmp_path_factory):
    """Once for all modules that import this: what is imported from the folder looks for its neighbours there."""
    if not hasattr(dynamic_module_utils, "cache_of_tests"):
        # An example in a docstring may have imported code from the usual place.
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            del sys.modules[name]
        sys.path[:] = [path for path in sys.path if path != dynamic_module_utils.HF_MODULES_CACHE]
        importlib.invalidate_caches()
        dynamic_module_utils.cache_of_tests = str(tmp_path_factory.mktemp("modules"))
        dynamic_module_utils.HF_MODULES_CACHE = dynamic_module_utils.cache_of_tests
