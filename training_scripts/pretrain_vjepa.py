"""Pretrain a V-JEPA, a V-JEPA 2, a V-JEPA 2.1 or a SALT; the first argument says which.

    accelerate launch training_scripts/pretrain_vjepa.py vjepa2 training_scripts/configs/vjepa2/tiny.yaml
    accelerate launch training_scripts/pretrain_vjepa.py vjepa training_scripts/configs/vjepa/vitl16_224.yaml \
        --dataset /data/videomix.csv --output_dir runs/vitl16
    accelerate launch training_scripts/pretrain_vjepa.py vjepa2 training_scripts/configs/vjepa2/cooldown_384.yaml \
        --model_name_or_path runs/vjepa2-vitg
    accelerate launch training_scripts/pretrain_vjepa.py salt training_scripts/configs/salt/tiny_student.yaml \
        --teacher_name_or_path runs/salt-tiny

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run,
`--model_name_or_path` begins a new one, such as a cooldown on longer and larger clips, from its weights.
"""

import sys

from hf_jepa.training.pretrain_video import pretrain
from hf_jepa.training.recipe import take_variant


if __name__ == "__main__":
    variant, arguments = take_variant(sys.argv[1:], "video", description=__doc__)
    pretrain(variant, arguments, description=__doc__)
