"""Train the decoder of a VL-JEPA, which turns embeddings back into text, from texts alone.

    accelerate launch training_scripts/train_vl_jepa_decoder.py training_scripts/configs/vl_jepa/decoder_tiny.yaml \
        --model_name_or_path runs/vl-jepa-tiny
    accelerate launch training_scripts/train_vl_jepa_decoder.py training_scripts/configs/vl_jepa/decoder.yaml \
        --model_name_or_path runs/vl-jepa-sft --dataset captions.jsonl

Everything but the decoder stays frozen. The result holds the VL-JEPA and its decoder. Every field of the recipe can be
overridden.
"""

import sys

from hf_jepa.training.train_vl_jepa_decoder import train


if __name__ == "__main__":
    train(sys.argv[1:], description=__doc__)
