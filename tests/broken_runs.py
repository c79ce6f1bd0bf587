"""A tiny I-JEPA run on the embedded pictures, and the same run broken in one way each.

`python tests/broken_runs.py docs/images/collapse.png` draws the figure of docs/collapse.md.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PrinterCallback

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.diagnosis.runs import run_of
from hf_jepa.training.diagnosis.signals import TaskSignalsMixin
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.visualization.diagnosis import draw_diagnosis


MODEL = {
    "image_size": 24,
    "patch_size": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "pred_hidden_size": 32,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 4,
    "initializer_range": 0.2,
}
MASKS = {"target_scale": (0.1, 0.2), "min_keep": 2}
ARGUMENTS = {
    "per_device_train_batch_size": 32,
    "max_steps": 48,
    "warmup_steps": 5,
    "learning_rate": 5e-3,
    "start_learning_rate": 0.0,
    "final_learning_rate": 5e-5,
    "weight_decay": 0.05,
    "final_weight_decay": 0.05,
    "start_momentum": 0.99,
    "logging_steps": 3,
    "logging_first_step": True,
    "save_strategy": "no",
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
# Cause -> what is wrong: (arguments, masks, model).
BROKEN = {
    "momentum too low": ({"start_momentum": 0.0, "final_momentum": 0.0}, {}, {}),
    "masks too small": ({}, {"target_scale": (0.025, 0.028), "context_scale": (1.0, 1.0), "min_keep": 0}, {}),
    "learning rate too high": ({"learning_rate": 0.1, "start_learning_rate": 0.1, "warmup_steps": 0}, {}, {}),
    "learning rate too low": ({"learning_rate": 1e-7, "final_learning_rate": 1e-8}, {}, {}),
    "batch too small": ({"per_device_train_batch_size": 2}, {}, {}),
    "frozen target": ({}, {}, {"target_source": "frozen"}),
    "predictor too strong": (
        {},
        {},
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "pred_hidden_size": 96,
            "pred_num_hidden_layers": 3,
        },
    ),
    "leak": ({}, {"allow_overlap": True}, {}),
    "initialisation": ({}, {}, {"initializer_range": 0.02}),
}
HEALTHY = ({}, {}, {})
# Where the trainer does not log these signals itself.
TRAINER = (
    JepaTrainer
    if issubclass(JepaTrainer, TaskSignalsMixin)
    else type("WatchedTrainer", (TaskSignalsMixin, JepaTrainer), {})
)


def train(folder: Path, changes: tuple[dict, dict, dict] = HEALTHY, seed: int = 0, **arguments) -> JepaTrainer:
    """Train in `folder`, and leave there what a finished run leaves."""
    torch.manual_seed(seed)
    changed, masks, fields = changes
    arguments = JepaTrainingArguments(str(folder), seed=seed, **(ARGUMENTS | changed | arguments))
    model = IJepaForPreTraining(IJepaConfig(**(MODEL | fields)))
    length = arguments.max_steps * arguments.per_device_train_batch_size
    trainer = TRAINER(
        model,
        arguments,
        MultiBlockMaskSampler(model.config.grid_size, seed=seed, **(MASKS | masks)),
        train_dataset=EmbeddedCrops(length, size=model.config.image_size, seed=seed),
        data_collator=ImageCollator(),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()
    trainer.save_model()
    return trainer


def draw(path: str) -> None:
    """The figure of docs/collapse.md: all runs of the tests."""
    cases = {"healthy": HEALTHY} | BROKEN
    with TemporaryDirectory() as folder:
        logs = {name: run_of(train(Path(folder), changes)).log for name, changes in cases.items()}
    draw_diagnosis(logs, path, title="A tiny I-JEPA, and the same run broken in one way each")


if __name__ == "__main__":
    draw(sys.argv[1])
