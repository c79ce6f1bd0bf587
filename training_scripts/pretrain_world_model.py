"""Train a world model on trajectories; the first argument says which.

    accelerate launch training_scripts/pretrain_world_model.py vjepa2_ac training_scripts/configs/vjepa2_ac/tiny.yaml
    accelerate launch training_scripts/pretrain_world_model.py vjepa2_ac \
        training_scripts/configs/vjepa2_ac/droid_256px_8f.yaml --dataset /data/droid_raw

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run,
`--model_name_or_path` begins a new one from its weights.
"""

import sys

from hf_jepa.training.pretrain_trajectory import pretrain
from hf_jepa.training.recipe import take_variant


if __name__ == "__main__":
    variant, arguments = take_variant(sys.argv[1:], "trajectory", description=__doc__)
    pretrain(variant, arguments, description=__doc__)
