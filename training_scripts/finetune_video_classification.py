"""Fine-tune any checkpoint of a video variant for classification.

    accelerate launch training_scripts/finetune_video_classification.py \
        training_scripts/configs/vjepa2/finetune_tiny.yaml --model_name_or_path runs/vjepa2-tiny
    accelerate launch training_scripts/finetune_video_classification.py \
        training_scripts/configs/vjepa2/finetune_vitl16_ssv2.yaml --mode probe

The checkpoint is a Hub id or a folder: a pretraining checkpoint, a native one, or a classifier. `--mode probe` trains
the attentive classifier alone, `lora` adapters that are merged at the end, `full` all weights. `--num_segments` clips
of a video are read together, `--num_views` spatial crops are averaged when measuring. Every field of the recipe can be
overridden.
"""

import sys

from hf_jepa.training.finetune_video import finetune


if __name__ == "__main__":
    finetune(sys.argv[1:], description=__doc__)
