"""Folders that the tests of official probes share."""

import pytest
from official_probe import EK100, encoder

from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.registry import VARIANTS


@pytest.fixture(scope="module")
def vjepa2(tmp_path_factory):
    return encoder("vjepa2", tmp_path_factory.mktemp("vjepa2") / "encoder")


@pytest.fixture(scope="module")
def ek100(tmp_path_factory):
    """The golden backbone, which its probe belongs to, in a folder of ours."""
    folder = tmp_path_factory.mktemp("ek100") / "encoder"
    heads = {"num_attention_heads": 2, "pred_num_attention_heads": 2}
    convert_checkpoint(VARIANTS["vjepa2"], EK100, folder, **heads, crop_size=32, frames_per_clip=4)
    return folder
