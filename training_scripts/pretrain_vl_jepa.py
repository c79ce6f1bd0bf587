"""Train a VL-JEPA, stage 1: from videos or images alone, without queries, to what is said of them.

    accelerate launch training_scripts/pretrain_vl_jepa.py training_scripts/configs/vl_jepa/tiny.yaml
    accelerate launch training_scripts/pretrain_vl_jepa.py training_scripts/configs/vl_jepa/stage1_images.yaml \
        --dataset "/data/images-{000..999}.tar" --output_dir runs/vl-jepa-images
    accelerate launch training_scripts/pretrain_vl_jepa.py \
        training_scripts/configs/vl_jepa/stage1_video_8_frames.yaml --model_name_or_path runs/vl-jepa-images \
        --dataset videos.jsonl --cache_vision_tokens /scratch/tokens

A fresh model is made of trained parts (`--vision`, `--init_predictor_from`, `--text`). The negatives of a pair are the
other pairs of its batch: `--cached_infonce true` makes one batch of all that a step accumulates. Every field of the
recipe can be overridden; `--resume_from_checkpoint auto` continues a run.
"""

import sys

from hf_jepa.training.pretrain_vl_jepa import pretrain


if __name__ == "__main__":
    pretrain(sys.argv[1:], description=__doc__)
