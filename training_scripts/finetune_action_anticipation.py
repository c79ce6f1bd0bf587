"""Train a V-JEPA 2 to anticipate actions: verb, noun and action a second before they begin.

    accelerate launch training_scripts/finetune_action_anticipation.py \
        training_scripts/configs/vjepa2/anticipate_tiny.yaml --model_name_or_path runs/vjepa2-tiny
    accelerate launch training_scripts/finetune_action_anticipation.py \
        training_scripts/configs/vjepa2/anticipate_vitl16_ek100.yaml --dataset /data/ek100 \
        --train_table EPIC_100_train.csv --eval_table EPIC_100_validation.csv

The checkpoint must hold a predictor. `--mode probe` trains the attentive probe on a frozen encoder and predictor, `lora`
adapters that are merged at the end, `full` all weights. `--anchor official` lets clips end where the released code lets
them end, before the *stop* of the action. Every field of the recipe can be overridden.
"""

import sys

from hf_jepa.training.finetune_anticipation import finetune


if __name__ == "__main__":
    finetune(sys.argv[1:], description=__doc__)
