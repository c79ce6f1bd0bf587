"""Pretrain by any objective for images; the first argument says which.

    accelerate launch training_scripts/pretrain_image.py lejepa training_scripts/configs/lejepa/tiny.yaml
    accelerate launch training_scripts/pretrain_image.py cjepa training_scripts/configs/cjepa/tiny.yaml \
        --dataset /data/imagenet --output_dir runs/cjepa

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run.
"""

import sys

from hf_jepa.training.pretrain_image import pretrain
from hf_jepa.training.recipe import take_variant


if __name__ == "__main__":
    variant, arguments = take_variant(sys.argv[1:], "image", description=__doc__)
    pretrain(variant, arguments, description=__doc__)
