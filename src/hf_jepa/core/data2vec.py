"""What data2vec of images, speech and text has in common (Baevski et al. 2022, arXiv 2202.03555).

A student sees an input of which parts are replaced by a mask token, and regresses there what a teacher, an average of
the student's transformer, makes of the whole input: the mean of its last layers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.ema import Average
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.validation import require_at_least, require_choices, require_heads, require_positive
from hf_jepa.losses.layer_targets import LAYER_NORMALIZATIONS, data2vec_loss, layer_targets


SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}


@dataclass(kw_only=True, repr=False)
class Data2VecConfigMixin(JepaConfigMixin):
    """Targets, loss and head of data2vec; defaults are those of images.

    Args:
        top_k_layers: how many of the teacher's last layers make the targets.
        layer_target_normalization: how the output of each is normalised before the mean: "none" (images),
            "instance_norm" (speech), "layer_norm" (text), or "batch_norm", "group_norm"; see `layer_targets`.
        target_normalization: of the mean: "layer_norm" (images) or "none" (speech, text).
        loss_beta: where the smooth-L1 loss turns linear; 0 for the squared error.
        loss_scale: factor of the loss, which is a sum over features; 1 / sqrt(hidden_size) when unset.
        pred_num_layers: linear layers of the head on top of the student, with GELU between: 0 for none (images), 1 for
            one of the student's width (speech), more for hidden layers of twice the width (2: text).

    Example:
        >>> from hf_jepa import Data2VecVisionConfig
        >>> Data2VecVisionConfig().top_k_layers
        6
    """

    sizes = SIZES

    top_k_layers: int = 6
    layer_target_normalization: str = "none"
    loss_beta: float | int = 2.0
    loss_scale: float | int | None = None
    pred_num_layers: int = 0

    def validate_layer_targets(self):
        if self.loss_type != "smooth_l1":
            raise ValueError(
                f"loss_type={self.loss_type!r}: data2vec has smooth_l1, of which loss_beta=0 is the squared error"
            )
        if not 1 <= self.top_k_layers <= self.num_hidden_layers:
            raise ValueError(
                f"top_k_layers {self.top_k_layers} must lie between 1 and num_hidden_layers {self.num_hidden_layers}"
            )
        require_choices(self, layer_target_normalization=LAYER_NORMALIZATIONS)
        require_at_least(self, 0, ("loss_beta", "pred_num_layers"))
        require_positive(self, "loss_scale")

    def validate_transformer(self):
        require_heads(self)
        require_at_least(self, 1, ("num_hidden_layers", "intermediate_size"))
        require_positive(self, "layer_norm_eps", "initializer_range")


def regression_head(width: int, num_layers: int) -> nn.Sequential:
    """Linear layers with GELU between, hidden ones of twice the width; without layers the identity.

    Args:
        width: D of its input and output.
        num_layers: linear layers.

    Example:
        >>> [tuple(layer.weight.shape) for layer in regression_head(4, 2) if isinstance(layer, nn.Linear)]
        [(8, 4), (4, 8)]
    """
    widths = [width, *[2 * width] * (num_layers - 1), width]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Outputs of modules, in the order in which they run; of tuples the first entry.

    Example:
        >>> layer = nn.ReLU()
        >>> with recorded([layer]) as outputs:
        ...     _ = layer(torch.tensor([-1.0, 2.0]))
        >>> outputs
        [tensor([0., 2.])]
    """
    outputs: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode for a moment; afterwards its parts are in the modes they had.

    Example:
        >>> dropout = nn.Dropout(0.5)
        >>> with without_dropout(dropout):
        ...     dropout(torch.ones(2))
        tensor([1., 1.])
        >>> dropout.training
        True
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class TeacherAverage(Average):
    """The average of a teacher, some parts of which are no average but always equal to the student's.

    Args:
        target, source: see `Average`.
        copied: names of submodules that are copied at every step.

    Example:
        >>> teacher, student = (nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}) for _ in range(2))
        >>> TeacherAverage(teacher, student, copied=("b",))(0.9)
        >>> [torch.equal(teacher[name].weight, student[name].weight) for name in "ab"]
        [False, True]
    """

    def __init__(self, target: nn.Module, source: nn.Module, copied: tuple[str, ...] = ()):
        super().__init__(target, source)
        self.copies = [Average(target.get_submodule(name), source.get_submodule(name)) for name in copied]

    def __call__(self, momentum: float, skip: torch.Tensor | None = None) -> None:
        super().__call__(momentum, skip)
        for copy in self.copies:
            copy(0.0, skip)


class Data2VecPreTrainingMixin(JepaPreTrainingMixin):
    """The contract of a data2vec: the student is the base model, the teacher a copy of its transformer alone.

    The teacher shares what stands before the student's transformer (patches, features, embeddings), without gradient
    and without dropout. It stays in float32 beside a 16-bit student. A class that mixes this in names its
    `encoder_class` and the parts of it that make the transformer, and gives `encode_targets`.

    Example:
        >>> from hf_jepa import Data2VecVisionConfig, Data2VecVisionForPreTraining
        >>> model = Data2VecVisionForPreTraining(Data2VecVisionConfig(hidden_size=16, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4, top_k_layers=1))
        >>> model.context_encoder is model.data2vec_vision, model.target_encoder is model.teacher
        (True, True)
        >>> model.update_target_encoder(0.999)  # after every optimizer step
    """

    encoder_class: ClassVar[type[PreTrainedModel]]  # of the student
    target_encoder_name = "teacher"
    transformer_parts: ClassVar[tuple[str, ...]] = ("encoder",)  # of the student, that the teacher has too
    copied_parts: ClassVar[tuple[str, ...]] = ()  # of the teacher, that are never averaged
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: Data2VecConfigMixin):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(self.config))
        self.teacher = self.transformer_of(self.encoder_class(self.config))
        self.predictor = regression_head(self.config.hidden_size, self.config.pred_num_layers)
        self.post_init()

    def transformer_of(self, encoder: nn.Module) -> nn.ModuleDict:
        """The parts of an encoder that a teacher has, as they are, not copied."""
        return nn.ModuleDict({name: encoder.get_submodule(name) for name in self.transformer_parts})

    def start_target_encoder(self) -> None:
        Average(self.teacher, self.transformer_of(self.context_encoder))(0.0)

    def target_average(self) -> Average:
        self.require_average()
        return TeacherAverage(self.teacher, self.transformer_of(self.context_encoder), self.copied_parts)

    @property
    def teacher_dtype(self) -> torch.dtype:
        return next(self.teacher.parameters()).dtype

    def masked_targets(
        self, layers: list[torch.Tensor], masked: torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Targets of the masked places, float32 (R, D), from outputs (B, T, D) of the teacher's last layers."""
        config = self.config
        per_layer, after_mean = config.layer_target_normalization, config.target_normalization
        return layer_targets(layers, per_layer=per_layer, after_mean=after_mean, valid=valid)[masked]

    def regress(
        self, tokens: torch.Tensor, masked: torch.Tensor, targets: torch.Tensor, context: Any
    ) -> JepaForPreTrainingOutput:
        """The loss on the masked places of what the student said.

        Args:
            tokens: of the student, (B, T, D).
            masked: BoolTensor (B, T).
            targets: (R, D) of the masked places.
            context: output of the student.
        """
        predictions = self.predictor(tokens[masked])
        loss = data2vec_loss(predictions, targets, beta=self.config.loss_beta, scale=self.config.loss_scale)
        return JepaForPreTrainingOutput(
            loss=loss,
            prediction_loss=loss,
            predictions=predictions,
            targets=targets,
            context=tokens,
            hidden_states=context.hidden_states,
            attentions=context.attentions,
        )


def require_mask(masked: torch.Tensor, places: torch.Size | tuple[int, int], name: str) -> torch.Tensor:
    """Check a mask of places and bring it to where it is needed.

    Args:
        masked: BoolTensor (B, T), True where a place is masked.
        places: (B, T) of the input.
        name: of the argument, for the message.

    Raises:
        ValueError: another type or shape.

    Example:
        >>> require_mask(torch.zeros(2, 3, dtype=torch.bool), (2, 3), "bool_masked_pos").shape
        torch.Size([2, 3])
    """
    if not isinstance(masked, torch.Tensor) or masked.dtype != torch.bool or tuple(masked.shape) != tuple(places):
        found = f"{tuple(masked.shape)} of {masked.dtype}" if isinstance(masked, torch.Tensor) else repr(masked)
        raise ValueError(
            f"{name} is {found}, expected a BoolTensor {tuple(places)} that is True where a place is masked"
        )
    return masked


__all__ = [
    "Data2VecConfigMixin",
    "Data2VecPreTrainingMixin",
    "TeacherAverage",
    "recorded",
    "regression_head",
    "require_mask",
    "without_dropout",
]
