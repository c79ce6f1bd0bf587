"""What a conversion takes of the memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining


# ru_maxrss would not do: it survives exec, so a child starts with the peak of the process that started it.
PEAK = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) * 1024"
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")


def peak_of_child(code: str) -> int:
    """Bytes that Python code prints in its last line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def write_official(size: str, path: Path) -> int:
    """A file in official layout with random numbers; returns its size in bytes."""
    config = IJepaConfig.from_size(size, patch_size=14)
    with torch.device("meta"):
        official = LAYOUT.revert(IJepaForPreTraining(config).state_dict(), config)
    for state in official.values():
        state |= {k: torch.randn(v.shape) * 0.02 for k, v in state.items() if not k.endswith("pos_embed")}
    torch.save(official, path)
    return path.stat().st_size


@on_linux
@pytest.mark.slow
def test_writing_shards_does_not_collect_the_whole_file_in_memory(tmp_path):
    size = write_official("vit_small", tmp_path / "small.pth.tar")
    code = f"""
from pathlib import Path
from hf_jepa.hub.files import read_torch_checkpoint, save_weights
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
read = lambda: read_torch_checkpoint({str(tmp_path / "small.pth.tar")!r}, verified=True)
config = LAYOUT.infer_config(read())
LAYOUT.convert(read(), config)
before = {PEAK}
save_weights(lambda: LAYOUT.convert(read(), config), Path({str(tmp_path)!r}), shard_bytes=20 * 2**20)
print({PEAK} - before)
"""
    assert peak_of_child(code) < 0.6 * size


@on_linux
@pytest.mark.slow
def test_conversion_needs_less_than_1_3_times_the_file_in_memory(tmp_path):
    """A vit_huge file: two encoders of 630M parameters and a predictor, 5.1 GB."""
    size = write_official("vit_huge", tmp_path / "huge.pth.tar")
    arguments = [
        "convert",
        "--variant",
        "ijepa",
        "--checkpoint",
        str(tmp_path / "huge.pth.tar"),
        "--output",
        str(tmp_path / "out"),
    ]
    code = f"""
from hf_jepa.cli.main import main
assert main({arguments!r}) == 0
print({PEAK})
"""
    assert peak_of_child(code) < 1.3 * size
