"""Fine-tune any checkpoint of an image variant for classification.

    accelerate launch training_scripts/finetune_image_classification.py \
        training_scripts/configs/ijepa/finetune_tiny.yaml --model_name_or_path runs/tiny
    accelerate launch training_scripts/finetune_image_classification.py \
        training_scripts/configs/ijepa/finetune_vith14_in1k.yaml --mode lora

The checkpoint is a Hub id or a folder: a pretraining checkpoint, an encoder (also in the layout of old Hub files), or
a classifier. `--mode probe` trains the classifier alone, `lora` adapters that are merged at the end, `full` all
weights. The result loads in stock `AutoModelForImageClassification`. Every field of the recipe can be overridden.
"""

import sys

from hf_jepa.training.finetune_image import finetune


if __name__ == "__main__":
    finetune(sys.argv[1:], description=__doc__)
