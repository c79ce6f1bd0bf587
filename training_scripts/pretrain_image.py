"""Pretrain by any objective for images; the first argument says which, I-JEPA unless given.

    accelerate launch training_scripts/pretrain_image.py lejepa training_scripts/configs/lejepa/tiny.yaml
    accelerate launch training_scripts/pretrain_image.py cjepa training_scripts/configs/cjepa/tiny.yaml \
        --dataset /data/imagenet --output_dir runs/cjepa

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run.
"""

import sys

from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_image import pretrain


IMAGES = [name for name, variant in VARIANTS.items() if variant.modality == "image"]

if __name__ == "__main__":
    arguments = sys.argv[1:]
    variant = arguments.pop(0) if arguments and arguments[0] in IMAGES else IMAGES[0]
    pretrain(variant, arguments, description=__doc__)
