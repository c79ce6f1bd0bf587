"""Measure a VL-JEPA on tasks that it has no heads for: classification, retrieval (R@1, R@5, R@10), visual questions.

    python training_scripts/evaluate_vl_jepa.py --model_name_or_path runs/vl-jepa-tiny --tasks retrieval \
        classification --dataset digit_stories --eval_split test --generated_length 128 --frames_per_clip 8
    python training_scripts/evaluate_vl_jepa.py --model_name_or_path runs/vl-jepa-sft --tasks vqa \
        --dataset questions.jsonl --candidates query --output scores.json

Of classification the targets of the records are the labels, or `--labels` names a file of them; `--templates "a video
of {}"` puts them into sentences. Retrieval compares all videos with all different targets. Visual questions choose
among the answers that occur. A table is printed, and `--output` keeps the numbers.
"""

import sys

from hf_jepa.training.evaluate_vl_jepa import evaluate


if __name__ == "__main__":
    evaluate(sys.argv[1:], description=__doc__)
