"""Train any causal language model with the LLM-JEPA objective: fine-tune a checkpoint, or start afresh.

    accelerate launch training_scripts/finetune_llm_jepa.py training_scripts/configs/llm_jepa/tiny.yaml
    accelerate launch training_scripts/finetune_llm_jepa.py training_scripts/configs/llm_jepa/llama3_2_1b_synth.yaml \
        --dataset synth_train.jsonl --output_dir runs/llm-jepa

Data is JSONL or parquet with `messages` (system, user, assistant) or two columns of text. The result is an ordinary
checkpoint of the language model with its tokenizer: stock `AutoModelForCausalLM` loads it and generates. `--lora_rank`
trains adapters, which are merged at the end. `--jepa_weight 0` is the baseline without JEPA loss. Every field of the
recipe can be overridden.
"""

import sys

from hf_jepa.training.finetune_llm_jepa import finetune


if __name__ == "__main__":
    finetune(sys.argv[1:], description=__doc__)
