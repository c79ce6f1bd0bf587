"""Spoiled official files and folders end in a clear error or in the right weights, and leave nothing behind."""

import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from mutations import FILE_MUTATIONS, MUTATIONS, copied

from hf_jepa.cli.main import _is_input_error
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import load_weights, read_torch_checkpoint, save_weights
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_file
from hf_jepa.registry import VARIANTS, Variant


GOLDEN = Path(__file__).resolve().parents[1] / "fixtures/golden"
FILES = {
    "ijepa": "ijepa/encoder_forward",
    "vjepa": "vjepa/encoder",
    "vjepa2": "vjepa2/encoder_swiglu",
    "vjepa2_1": "vjepa2_1/encoder",
    "data2vec_vision": "data2vec/vision_step",
    "nepa": "nepa/pretrain_step",
}
CASES, SLICE, BLOCK = 500, 60, 20
SECONDS = 10  # of one case; it takes a tenth of a second
BYTES = 2**30  # that one case may ask for beyond what the process has


@cache
def source(name: str) -> tuple[Variant, dict, Path, dict]:
    """Variant, content of the official file, folder that it converts to and its weights."""
    variant, file = VARIANTS[name], GOLDEN / FILES[name] / "checkpoint.pt"
    folder = Path(mkdtemp()) / "model"
    convert(file, folder)
    return variant, read_torch_checkpoint(file), folder, load_weights(folder)


def convert(file: Path, output: Path) -> Variant:
    variant = variant_of_file(file)
    convert_checkpoint(variant, file, output, **dict.fromkeys(variant.layout.heads, 1))
    return variant


@pytest.fixture(scope="module", autouse=True)
def _folders_are_removed():
    yield
    for name in FILES:
        shutil.rmtree(source(name)[2].parent)
    source.cache_clear()


@contextmanager
def limited():
    """A case that hangs or asks for much memory fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)

    def stop(number, frame):
        raise AssertionError(f"it takes more than {SECONDS} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def require_equal(found: dict, expected: dict, rounded: bool) -> None:
    """What was read is what was written; only whole parts may be missing."""
    for key, value in found.items():
        assert key in expected, f"{key} is new"
        tolerance = {"rtol": 1e-2, "atol": 1e-3} if rounded else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(value.double(), expected[key].double(), msg=lambda text, k=key: f"{k}: {text}", **tolerance)
    parts = {key.split(".")[0] for key in found}
    missing = [key for key in expected if key.split(".")[0] in parts and key not in found]
    assert not missing or {key.rpartition("encoder.")[0] for key in found}, missing


def run_file(rng: random.Random, mutate, folder: Path) -> str:
    variant, official, _, expected = source(rng.choice(list(FILES)))
    file, output = folder / "spoiled.pt", folder / "out"
    rounded = bool(mutate(rng, copied(official), file))
    with limited():
        convert(file, output)
    require_equal(load_weights(output), expected, rounded)
    return "converted"


def run_folder(rng: random.Random, mutate, folder: Path) -> str:
    variant, official, converted, _ = source(rng.choice(list(FILES)))
    spoiled, output = folder / "spoiled", folder / "out.pt"
    shutil.copytree(converted, spoiled)
    if rng.random() < 0.5 or mutate.__name__ == "odd_index":
        weights = load_weights(spoiled)
        (spoiled / "model.safetensors").unlink()
        save_weights(lambda: weights, spoiled, shard_bytes=2**16)
    mutate(rng, spoiled)
    with limited():
        _, agrees = inspect_checkpoint(spoiled)
        revert_checkpoint(variant, spoiled, output)
    back = read_torch_checkpoint(output)
    for name, state in back.items():
        if name in official and isinstance(official[name], dict):
            kept = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
            require_equal(kept, official[name], False)
    return "read" if agrees else "told apart by its fingerprint"


def run_case(number: int, folder: Path) -> str:
    """What became of a case; asserts that it is one of the two things that may become of it."""
    rng, mutate = random.Random(f"hf_jepa {number}"), MUTATIONS[number % len(MUTATIONS)]
    run = run_file if mutate in FILE_MUTATIONS else run_folder
    started = time.monotonic()
    try:
        outcome = run(rng, mutate, folder)
    except Exception as error:
        assert _is_input_error(error), f"case {number} ({mutate.__name__}): {type(error).__name__}: {error}"
        assert 10 < len(str(error)) < 3000, f"case {number} ({mutate.__name__}): the message is {str(error)[:200]!r}"
        outcome = "refused"
        left = [path.name for path in folder.iterdir() if not path.name.startswith("spoiled")]
        assert not left, f"case {number} ({mutate.__name__}) left {left} behind"
    assert not (folder / "was-run").exists(), f"case {number} ({mutate.__name__}) ran code"
    assert time.monotonic() - started < SECONDS
    return outcome


@pytest.mark.parametrize(
    "first", [pytest.param(n, marks=[pytest.mark.slow] if n >= SLICE else []) for n in range(0, CASES, BLOCK)]
)
def test_spoiled_files_are_refused_or_harmless(first, tmp_path):
    for name in FILES:
        source(name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = []
    for number in range(first, first + BLOCK):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes.append(run_case(number, folder))
        shutil.rmtree(folder)
    assert outcomes.count("refused") > BLOCK // 3
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown < 300_000, f"memory grew by {grown} KiB"


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_spoiled_is_read(name, tmp_path):
    """Else a reader that refuses everything would pass."""
    variant, official, converted, expected = source(name)
    torch.save(copied(official), tmp_path / "same.pt")
    assert convert(tmp_path / "same.pt", tmp_path / "out").name == name
    require_equal(load_weights(tmp_path / "out"), expected, False)
    assert inspect_checkpoint(converted)[1]
