"""Spoiled official files and folders end in a clear error or in the right weights, and leave nothing behind."""

import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from spoiled_files import FILE_MUTATIONS, MUTATIONS, copied

from hf_jepa.cli.main import _is_input_error
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import load_weights, read_config, read_torch_checkpoint, save_weights
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_file
from hf_jepa.registry import VARIANTS, Variant


GOLDEN = Path(__file__).resolve().parents[1] / "fixtures/golden"
FILES = {
    "ijepa": "ijepa/encoder_forward",
    "vjepa": "vjepa/pretrain_step",
    "vjepa2": "vjepa2/pretrain_step",
    "vjepa2_1": "vjepa2_1/encoder",
    "data2vec_vision": "data2vec/vision_step",
    "nepa": "nepa/pretrain_step",
}
CASES, SLICE, BLOCK = 500, 60, 20
SECONDS = 10  # of one case; it takes a tenth of a second
BYTES = 2**30  # that one case may ask for beyond what the process has


@dataclass(frozen=True)
class Source:
    """A file that is whole, and what it becomes."""

    variant: Variant
    official: dict
    folder: Path
    weights: dict[str, torch.Tensor]
    reverted: dict


@cache
def source(name: str) -> Source:
    file, place = GOLDEN / FILES[name] / "checkpoint.pt", Path(mkdtemp())
    variant = convert(file, place / "model")
    revert_checkpoint(variant, place / "model", place / "back.pt")
    return Source(
        VARIANTS[name],
        read_torch_checkpoint(file),
        place / "model",
        load_weights(place / "model"),
        read_torch_checkpoint(place / "back.pt"),
    )


def convert(file: Path, output: Path) -> Variant:
    variant = variant_of_file(file)
    convert_checkpoint(variant, file, output, **dict.fromkeys(variant.layout.heads, 1))
    return variant


@pytest.fixture(scope="module", autouse=True)
def _folders_are_removed():
    yield
    for name in FILES:
        shutil.rmtree(source(name).folder.parent)
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


def require_equal(found: dict, expected: dict, parts: tuple[str, ...] = (), rounded: bool = False) -> None:
    """What was read is what was written; only whole parts may be missing."""
    for key, value in found.items():
        assert key in expected, f"{key} is new"
        assert value.is_floating_point() == expected[key].is_floating_point(), f"{key} is {value.dtype}"
        difference = (value.double() - expected[key].double()).abs().max() if value.numel() else 0.0
        assert difference <= (0.01 if rounded else 0.0), f"{key} differs by {difference}"
    absent = [part for part in parts if not any(key.startswith(f"{part}.") for key in found)]
    missing = [
        key for key in expected if key not in found and not key.startswith(tuple(f"{part}." for part in absent))
    ]
    assert not missing, f"lost: {missing[:5]}"


def parts_of(variant: Variant) -> tuple[str, ...]:
    return tuple(entry.part for entry in variant.layout.entries.values())


def run_file(rng: random.Random, mutate, folder: Path) -> str:
    whole = source(rng.choice(list(FILES)))
    file, output = folder / "spoiled.pt", folder / "out"
    rounded = bool(mutate(rng, copied(whole.official), file))
    with limited():
        variant = convert(file, output)
    require_equal(load_weights(output), whole.weights, parts_of(variant), rounded)
    return "converted"


def run_folder(rng: random.Random, mutate, folder: Path) -> str:
    whole = source(rng.choice(list(FILES)))
    spoiled, output = folder / "spoiled", folder / "out.pt"
    shutil.copytree(whole.folder, spoiled)
    if rng.random() < 0.5 or mutate.__name__ == "odd_index":
        (spoiled / "model.safetensors").unlink()
        save_weights(lambda: whole.weights, spoiled, shard_bytes=2**16)
    mutate(rng, spoiled)
    with limited():
        _, agrees = inspect_checkpoint(spoiled)
        revert_checkpoint(whole.variant, spoiled, output)
    back = read_torch_checkpoint(output)
    assert back.keys() == whole.reverted.keys()
    for name, state in back.items():
        kept, expected = (
            {k: v for k, v in s.items() if isinstance(v, torch.Tensor)} for s in (state, whole.reverted[name])
        )
        require_equal(kept, expected)
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
    "first",
    [
        0,  # the others take their time
        *(
            pytest.param(n, marks=pytest.mark.hub if n < SLICE else pytest.mark.slow)
            for n in range(BLOCK, CASES, BLOCK)
        ),
    ],
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
    whole = source(name)
    torch.save(copied(whole.official), tmp_path / "same.pt")
    assert convert(tmp_path / "same.pt", tmp_path / "out").name == name
    require_equal(load_weights(tmp_path / "out"), whole.weights)
    assert inspect_checkpoint(whole.folder)[1]
    expected = whole.variant.layout.convert(whole.official, read_config(whole.variant.config_class(), whole.folder))
    require_equal(whole.weights, expected)
