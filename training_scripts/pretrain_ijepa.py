"""Pretrain an I-JEPA.

    accelerate launch training_scripts/pretrain_ijepa.py training_scripts/configs/ijepa/tiny.yaml
    accelerate launch training_scripts/pretrain_ijepa.py training_scripts/configs/ijepa/vith14_in1k.yaml \
        --dataset /data/imagenet --output_dir runs/vith14

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run.
"""

import sys

from hf_jepa.training.pretrain_image import pretrain


if __name__ == "__main__":
    pretrain("ijepa", sys.argv[1:], description=__doc__)
