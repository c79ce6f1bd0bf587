"""Base classes: initialisation shared by all models, and the contract of a pretraining model."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import TransformersKwargs, logging

from hf_jepa.core.ema import Average
from hf_jepa.core.loading import REMEDY, require_weights
from hf_jepa.core.quiet import quiet_loading
from hf_jepa.layers.attentive_pooler import AttentivePooler


logger = logging.get_logger(__name__)


# What transformers may pass to any forward; `interpolate_pos_encoding` is what our encoders do in any case.
_RUNTIME_OPTIONS = {*TransformersKwargs.__annotations__, "use_cache", "interpolate_pos_encoding"}

_HINTS = {
    "bool_masked_pos": ": give the tokens to keep by context_mask",
    "sample_index": ": JepaTrainer and ClassificationTrainer take it out of the batch",
}


def runtime_options(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Further arguments of a forward, without those that are None, as peft and pipelines pass them.

    Raises:
        TypeError: an argument that nothing would read, such as a mask of misspelt name: all tokens would be seen.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if unknown := [name for name in kwargs if name not in _RUNTIME_OPTIONS]:
        raise TypeError(f"{type(model).__name__} has no argument {unknown[0]!r}{_HINTS.get(unknown[0], '')}")
    return kwargs


class JepaPreTrainedModel(PreTrainedModel):
    """What all models of the family share: flags, initialisation, and configs that come from a native class.

    Example:
        >>> from hf_jepa import IJepaModel
        >>> issubclass(IJepaModel, JepaPreTrainedModel)
        True
    """

    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config, *args, **kwargs):
        # `AutoModelForPreTraining` hands over the native config where the model type is native; ours adds fields.
        if not isinstance(config, self.config_class) and config.model_type == self.config_class.model_type:
            native, config = config, self.config_class.from_dict(config.to_dict())
            config._attn_implementation = native._attn_implementation  # a run-time choice, not in the dict
        config.validate()  # `from_pretrained` sets the fields that it is given after the config was built
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ) -> PreTrainedModel:
        """As in transformers, but an encoder is not left at random weights, unless the loading info is asked for.

        Raises:
            ValueError: weights of the encoder are not in the checkpoint, as where it is one of another variant.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.freeze_parts()
        if output_loading_info:
            return model, info
        model._require_whole(set(info["missing_keys"]), pretrained_model_name_or_path)
        return model

    def mark_tied_weights_as_initialized(self, loading_info) -> None:
        """As in transformers, but a tensor that two modules share stays missing where the file has neither name.

        There it would count as loaded, because one of its names is that of a tied weight.
        """
        absent = {
            source
            for target, source in self.all_tied_weights_keys.items()
            if {target, source} <= loading_info.missing_keys
        }
        super().mark_tied_weights_as_initialized(loading_info)
        loading_info.missing_keys |= absent

    def freeze_parts(self) -> None:
        """Exclude from training what never is: nothing here. Loading makes every parameter trainable."""

    def _require_whole(self, missing: set[str], source: str) -> None:
        """Refuse a checkpoint that lacks weights of the encoder; heads start at random, as in transformers."""
        prefix = "" if self.base_model is self else f"{self.base_model_prefix}."
        inside = [key.removeprefix(prefix) for key in missing if key.startswith(prefix)]
        require_weights((key for key in inside if not key.startswith("predictor.")), source, "the encoder")

    def save_pretrained(self, *args, save_original_format: bool = False, **kwargs):
        """Save with the keys of the file equal to the names of the modules (True: keys of old hub files instead)."""
        return super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)  # LayerNorm to (1, 0)
        if isinstance(module, AttentivePooler):
            init.trunc_normal_(module.query_tokens, std=self.config.initializer_range)
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            init.trunc_normal_(
                module.weight, std=self.config.initializer_range / getattr(module, "_init_divisor", 1.0)
            )
            if module.bias is not None:
                init.zeros_(module.bias)


class JepaPreTrainingMixin:
    """The contract of a `...ForPreTraining` model: a context encoder, what makes its targets, and a predictor.

    A class that mixes this in builds, under the name `base_model_prefix`, the encoder that users want, which
    `AutoModel` finds in the checkpoint. That is the target encoder; the module `context_encoder` lies beside it. Where
    the base model holds the predictor too, or where the encoder that users want is the context encoder and a teacher
    lies beside it, `target_encoder_name`, `context_encoder_name` and `predictor_name` say so. Where the config asks
    for no target encoder (`config.has_target_encoder`), both are the base model, and no module `context_encoder` is
    built. `encode_targets(inputs, masks)` gives the normalised target embeddings of the tokens of each mask.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=16, patch_size=8, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> model.training, model.target_encoder.training
        (True, False)
        >>> model.update_target_encoder(0.996)  # after every optimizer step
    """

    # For `Trainer`: the loss is the mean of a batch, whatever labels the data set has.
    accepts_loss_kwargs = False

    target_encoder_name: str | None = None  # of the module; `base_model_prefix` when unset
    context_encoder_name = "context_encoder"
    predictor_name = "predictor"
    fewest_samples = 1  # of a batch that the loss can be computed of

    @property
    def target_encoder(self) -> PreTrainedModel:
        """The encoder that makes the targets. If it is one of its own, it never receives a gradient."""
        return self.get_submodule(self._target_encoder_name)

    @property
    def context_encoder(self) -> PreTrainedModel:
        """The encoder that is trained."""
        # Not by `get_submodule`, which would ask for this property again.
        name = self._context_encoder_name
        return self._modules[name] if name in self._modules else self.get_submodule(name)

    @property
    def feature_encoder(self) -> PreTrainedModel:
        """The encoder that users want: of the two the one that the base model is or holds."""
        base = self._context_encoder_name.split(".")[0] == self.base_model_prefix
        return self.context_encoder if base else self.target_encoder

    @property
    def _target_encoder_name(self) -> str:
        return self.target_encoder_name or self.base_model_prefix

    @property
    def _context_encoder_name(self) -> str:
        return self.context_encoder_name if self.config.has_target_encoder else self._target_encoder_name

    def init_weights(self) -> None:
        """Initialise what has no weights yet, as `post_init` does; a new target encoder starts as a frozen copy.

        A model made on the meta device is initialised by `model.to_empty(device=...)` and then this.
        """
        # Also true of a loaded model; not where a subclass has added layers to the encoders.
        parts = (self, *self.target_encoder.modules())
        initialised = all(getattr(part, "_is_hf_initialized", False) for part in parts)
        super().init_weights()
        if not self.config.has_target_encoder:
            return
        self.target_encoder.requires_grad_(False).eval()
        if not initialised and self.device.type != "meta":
            self.start_target_encoder()

    def start_target_encoder(self) -> None:
        """Give a new target encoder its weights: those of the context encoder."""
        Average(self.target_encoder, self.context_encoder)(0.0)

    def update_target_encoder(self, momentum: float) -> None:
        """`target <- momentum * target + (1 - momentum) * context`; call it after every optimizer step.

        Args:
            momentum: in [0, 1].

        Raises:
            ValueError: the config says that targets are frozen, or the target encoder is stored in a 16-bit type.
        """
        self.target_average()(momentum)

    def target_average(self) -> Average:
        """What `update_target_encoder` calls, for a loop that wants to collect the tensors only once.

        A variant that moves its targets otherwise overrides this one: the trainer holds its result for a whole run.

        Raises:
            ValueError: what `require_average` refuses; adapters of another kind than `Average` knows.
        """
        self.require_average()
        return Average(self.target_encoder, self.context_encoder)

    def require_average(self) -> None:
        """Refuse to average where the target encoder is not one that follows.

        Raises:
            ValueError: the config says that targets are frozen; parameters of the target encoder are trainable, or
                it has adapters.
        """
        if self.config.target_source != "ema":
            raise ValueError(f"target_source={self.config.target_source!r}: there is no target encoder to be updated")
        if trained := [name for name, p in self.target_encoder.named_parameters() if p.requires_grad]:
            raise ValueError(
                f"{len(trained)} parameters of the target encoder are trainable, such as {trained[0]}. It follows the "
                "context encoder and learns nothing itself: freeze it (requires_grad_(False)), and give adapters to "
                "the context encoder alone, as adapt_context_encoder(model) does"
            )

    def learning_from_targets(self) -> torch.set_grad_enabled:
        """Context in which targets are made: with gradients only where they, or a term on them, train the encoder."""
        learns = self.config.target_source == "shared" or getattr(self.config, "sigreg_weight", 0) > 0
        return torch.set_grad_enabled(torch.is_grad_enabled() and learns)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.has_target_encoder:
            self.target_encoder.eval()  # no dropout in the targets
        return self

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """Load a pretraining checkpoint, or start one from an encoder-only checkpoint.

        An encoder that the checkpoint lacks becomes a copy of the one it has, a missing predictor (or part that a
        subclass adds) starts fresh, and one message says so. The target encoder is frozen again (loading makes every
        parameter trainable).

        Raises:
            ValueError: a part of the model is only partly in the checkpoint, or, unless `ignore_mismatched_sizes`,
                has other shapes there; the error names the keys.
        """
        # transformers' own report is silenced: what is missing is either explained or refused below.
        with quiet_loading():
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        model._check_shapes(info["mismatched_keys"], pretrained_model_name_or_path, ignore_mismatched_sizes)
        model._complete(info, pretrained_model_name_or_path)
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def _check_shapes(
        self, mismatched: Iterable[tuple[str, torch.Size, torch.Size]], source: str, ignore: bool
    ) -> None:
        """Refuse tensors of other shapes, or say that they start afresh: in both encoders alike."""
        if not mismatched:
            return
        shown = [f"{key} is {tuple(stored)}, not {tuple(wanted)}" for key, stored, wanted in sorted(mismatched)]
        found = f"{source}: {len(shown)} tensors have other shapes: {', '.join(shown[:3])}{' ...' * (len(shown) > 3)}"
        if not ignore:
            raise ValueError(f"{found}. Check the config, or start them afresh by ignore_mismatched_sizes=True.")
        logger.warning(f"{found}. They start from a fresh initialisation.")
        if self.config.target_source != "ema":
            return
        prefix, state = f"{self._target_encoder_name}.", self.state_dict()
        for key, *_ in mismatched:
            if key.startswith(prefix):
                state[key].copy_(state[f"{self._context_encoder_name}.{key.removeprefix(prefix)}"])

    def _complete(self, info: dict, source: str) -> None:
        """Fill in whole parts that a checkpoint lacks; refuse partial ones."""
        missing = set(info["missing_keys"])
        parts = {"target encoder": self._target_encoder_name, "context encoder": self._context_encoder_name}
        if not self.config.has_target_encoder:
            parts = {"encoder": self._target_encoder_name}
        encoders = set(parts)
        parts["predictor"] = self.predictor_name
        own = {name for name, _ in self.named_children()} - {prefix.split(".")[0] for prefix in parts.values()}
        parts |= {name: name for name in sorted(own)}  # what a subclass adds
        absent = []
        for part, prefix in parts.items():
            expected = {key for key in self.state_dict() if key.startswith(prefix + ".")}
            if expected and expected <= missing:
                absent.append(part)
                missing -= expected
        if missing or encoders <= set(absent):
            keys = sorted(missing or info["missing_keys"])
            raise ValueError(
                f"{source} does not hold a complete {type(self).__name__}: {len(keys)} keys are missing, among them "
                f"{', '.join(keys[:5])}: {REMEDY}"
            )
        if unexpected := sorted(info["unexpected_keys"]):
            logger.warning(
                f"{source}: {len(unexpected)} keys have no place in {type(self).__name__} and were left out: "
                f"{', '.join(unexpected[:5])}{' ...' if len(unexpected) > 5 else ''}"
            )
        starts = {
            "target encoder": "the target encoder starts as a copy of the context encoder",
            "context encoder": "the context encoder starts as a copy of the target encoder",
        }
        if "context encoder" in absent:
            Average(self.context_encoder, self.target_encoder)(0.0)
        elif "target encoder" in absent:
            self.start_target_encoder()
        if absent:
            fresh = "the {} starts from a fresh initialisation"
            started = "; ".join(starts.get(part, fresh.format(part)) for part in absent)
            logger.warning(f"{source} holds no {' and no '.join(absent)}: {started}.")
        if self.config.has_target_encoder:
            self.target_encoder.requires_grad_(False)
        self.train(self.training)  # puts the target encoder into eval mode


__all__ = ["JepaPreTrainedModel", "JepaPreTrainingMixin", "runtime_options"]
