"""The arguments of a VL-JEPA run, and what of the model learns how fast."""

from dataclasses import dataclass, field

from torch import nn

from hf_jepa.training.optimizer import is_matrix
from hf_jepa.training.run import RunArguments


@dataclass
class VLJepaTrainingArguments(RunArguments):
    """`TrainingArguments` with the settings of VL-JEPA (2512.10942, section 3.1), and ours where the paper is silent.

    From the paper: a constant learning rate of 5e-5, and 0.05 times that for the weights of the text encoder. Ours:
    warm-up, betas, weight decay, clipping.

    The negatives of a pair are the other pairs of its batch, of all processes where the config gathers them. Batches
    that are accumulated add none, unless `cached_infonce` makes one batch of them.

    Raises:
        ValueError: a multiplier that is not above 0.

    Example:
        >>> args = VLJepaTrainingArguments(output_dir="runs/example", use_cpu=True)
        >>> args.learning_rate, args.text_lr_multiplier, args.lr_scheduler_type.value
        (5e-05, 0.05, 'constant_with_warmup')
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    text_lr_multiplier: float = field(
        default=0.05,
        metadata={"help": "Of the weights of the text encoder; its projection learns at the full rate."},
    )
    cached_infonce: bool = field(
        default=False,
        metadata={"help": "Make one batch of negatives of all that a step accumulates, by two passes (GradCache)."},
    )
    save_vision: bool = field(
        default=True, metadata={"help": "Keep a frozen vision encoder in the checkpoints; else name it in loading."}
    )
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "constant_with_warmup, cosine, ... as in transformers."}
    )
    warmup_steps: float = field(default=2000, metadata={"help": "Steps of the warm-up, or their share if below 1."})
    weight_decay: float = field(default=0.05, metadata={"help": "Of matrices; other parameters are not decayed."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping; 0 is none."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop an incomplete last batch."})

    def __post_init__(self):
        super().__post_init__()
        if self.label_names is None:
            self.label_names = []  # the targets are made by the model
        if not self.text_lr_multiplier > 0:
            raise ValueError(
                f"text_lr_multiplier={self.text_lr_multiplier} must be above 0: set freeze_text in the config of the "
                "model to leave the text encoder as it is"
            )


def vision_language_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, text_lr_multiplier: float
) -> list[dict]:
    """Group trainable parameters: the text encoder learns slower, and only matrices are decayed.

    Its projection and the temperature learn at the full rate. Biases, norms and the temperature are not decayed.
    Frozen parameters are left out.

    Args:
        model: a `VLJepaForPreTraining`.
        learning_rate: of all but the text encoder.
        weight_decay: of parameters of two dimensions or more.
        text_lr_multiplier: times which the text encoder's weights learn.

    Returns:
        groups for a torch optimizer, each with its own "lr" and "weight_decay"; that of the predictor's matrices
        first. Empty groups are left out.

    Raises:
        ValueError: nothing to train.

    Example:
        >>> from types import SimpleNamespace
        >>> model = nn.ModuleDict({"text_model": nn.Linear(2, 2), "text_projection": nn.Linear(2, 2)})
        >>> model.base_model = SimpleNamespace(text_model=model["text_model"])
        >>> [(group["lr"], group["weight_decay"]) for group in vision_language_groups(model, 1.0, 0.1, 0.05)]
        [(1.0, 0.1), (1.0, 0.0), (0.05, 0.1), (0.05, 0.0)]
    """
    slow = set(map(id, model.base_model.text_model.parameters()))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (text, decays): [] for text in (False, True) for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[id(parameter) in slow, is_matrix(parameter) and not name.endswith("bias")].append(parameter)
    found = [
        {
            "params": parameters,
            "lr": learning_rate * (text_lr_multiplier if text else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (text, decays), parameters in groups.items()
        if parameters
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return found


__all__ = ["VLJepaTrainingArguments", "vision_language_groups"]
