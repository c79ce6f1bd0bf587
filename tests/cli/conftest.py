"""A tiny saved model and a folder of labelled pictures, as users have them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Dark and bright pictures; one file of the training split is no image."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, level in (("bright", 200), ("dark", 50)):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(level, 20, (40, 50, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    (folder / "train" / "bright" / "3.png").write_bytes(b"not an image")
    return folder


@pytest.fixture
def photo(photos):
    return photos / "test" / "dark" / "0.png"
