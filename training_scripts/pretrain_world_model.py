"""Train a world model on trajectories; the first argument says which, V-JEPA 2-AC unless given.

    accelerate launch training_scripts/pretrain_world_model.py vjepa2_ac training_scripts/configs/vjepa2_ac/tiny.yaml
    accelerate launch training_scripts/pretrain_world_model.py vjepa2_ac \
        training_scripts/configs/vjepa2_ac/droid_256px_8f.yaml --dataset /data/droid_raw

Every field of the recipe can be overridden; `--help` lists them. `--resume_from_checkpoint auto` continues a run,
`--model_name_or_path` begins a new one from its weights.
"""

import sys

from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_trajectory import pretrain


WORLD_MODELS = [name for name, variant in VARIANTS.items() if variant.modality == "trajectory"]

if __name__ == "__main__":
    arguments = sys.argv[1:]
    variant = arguments.pop(0) if arguments and arguments[0] in WORLD_MODELS else WORLD_MODELS[0]
    pretrain(variant, arguments, description=__doc__)
