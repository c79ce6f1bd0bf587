"""Fine-tune a VL-JEPA with queries: captions, visual questions and classes, each asked for in words (stage 2).

    accelerate launch training_scripts/finetune_vl_jepa.py training_scripts/configs/vl_jepa/finetune_tiny.yaml \
        --model_name_or_path runs/vl-jepa-tiny
    accelerate launch training_scripts/finetune_vl_jepa.py training_scripts/configs/vl_jepa/finetune_sft.yaml \
        --model_name_or_path runs/vl-jepa-32-frames --dataset \
        '{"vqa": {"path": "vqa.jsonl", "weight": 25}, "captions": {"path": "captions.jsonl", "weight": 3}}'

Records have "query" and "target". Where many answers of a batch are equal ("yes"), `mask_duplicates` of the config
keeps them from being negatives of one another. Every field of the recipe can be overridden.
"""

import sys

from hf_jepa.training.pretrain_vl_jepa import pretrain


if __name__ == "__main__":
    pretrain(sys.argv[1:], description=__doc__)
