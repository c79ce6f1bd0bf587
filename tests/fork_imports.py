"""What the server of `forks.py` imports, once for all processes."""

import gc
import os
from importlib.util import find_spec


os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
import torch  # noqa: E402  DeepSpeed looks for GPUs as it is imported


if find_spec("deepspeed") is not None:
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  which its engines import when they start
import hf_jepa.training.llm_jepa  # noqa: E402
import hf_jepa.training.pretrain_trajectory  # noqa: E402
import hf_jepa.training.pretrain_video  # noqa: E402
import hf_jepa.training.trainer  # noqa: E402
import hf_jepa.training.vision_language  # noqa: E402, F401
from hf_jepa.registry import VARIANTS  # noqa: E402


for variant in VARIANTS.values():
    variant.model_class()
torch.set_num_threads(1)
gc.freeze()  # or every collection in a process copies all that was imported
