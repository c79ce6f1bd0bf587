"""Sizes of the models, and the images, that the training tests share."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import datasets
import torch
from PIL import Image

from hf_jepa.data.images import ImageDataset
from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.registry import VARIANTS


CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 48,
    "patch_size": 8,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "initializer_range": 0.1,
}
QUIET = {"save_strategy": "no", "use_cpu": True, "report_to": "none", "disable_tqdm": True}
VIDEO = [name for name, variant in VARIANTS.items() if variant.modality == "video"]
CLIPS = {"crop_size": 64, "patch_size": 8, "frames_per_clip": 4}  # of moving digits, 2 x 8 x 8 tokens


def noise_images(count: int, unreadable: int = 0) -> ImageDataset:
    """Images of noise with two labels, and after them what is no image."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for pixels in torch.randint(256, (count, 50, 52, 3), generator=generator, dtype=torch.uint8).numpy():
        files.append(BytesIO())
        Image.fromarray(pixels).save(files[-1], "png")
    contents = [file.getvalue() for file in files] + [b"no image"] * unreadable
    table = {"image": [{"bytes": content, "path": None} for content in contents]}
    table["label"] = [i % 2 for i in range(len(contents))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return ImageDataset(datasets.Dataset.from_dict(table, features=features), evaluation_transform(48))


def write_photos(folder: Path, counts: dict[str, int], broken: Sequence[str]) -> Path:
    """So many images of two classes in each split, which brightness tells apart; in some one file that is no image."""
    generator = torch.Generator().manual_seed(0)
    for split, count in counts.items():
        for label, level in (("dark", 60), ("light", 180)):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = (torch.randn(56, 60, 3, generator=generator) * 25 + level).clamp(0, 255).byte().numpy()
                Image.fromarray(pixels).save(place / f"{i}.png")
        if split in broken:
            (folder / split / "dark/broken.jpg").write_bytes(b"not an image")
    return folder
