"""What keeps the sequences of a batch apart in an LLM-JEPA: masks, positions, and a trial of the language model."""

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig


# Attention for which a mask of four dimensions is a table of what may be seen.
_DENSE_ATTENTION = ("eager", "sdpa")


class SeparationMixin:
    """The part of `LlmJepaForCausalLM` that sees to it that no sequence sees another.

    The class has `causal_lm`, the language model, and `_decoder`, the part of it below its head.
    """

    config: LlmJepaConfig
    causal_lm: PreTrainedModel
    _decoder: nn.Module

    def _seen(
        self, mask: torch.Tensor | None, positions: torch.Tensor | None, has_views: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The mask in the form that the attention reads, and the positions; see `forward`."""
        attention, layout = self.causal_lm.config._attn_implementation, self.config.layout
        if mask is not None and mask.ndim == 4 and layout in ("packed", "three_pass"):
            raise ValueError(
                f"an attention_mask of four dimensions is of the layouts additive_mask and fused, the config says "
                f"layout={layout!r}: let the collator have the layout of the config"
            )
        if mask is None:
            if has_views and positions is None:
                raise ValueError(
                    "packed rows need position_ids that start again in each sequence: without them the views see "
                    "each other (LlmJepaDataCollator makes them)"
                )
            if positions is not None and len(positions) > 1 and "flash" in (attention or ""):
                raise ValueError(
                    f"attn_implementation={attention!r} keeps the sequences of one packed row apart, not those of "
                    f"{len(positions)}: use packing='single', or 'sdpa'"
                )
            return None, positions
        if mask.ndim == 2:
            if has_views and layout == "packed":
                raise ValueError(
                    "an attention_mask of two dimensions with packed rows would let the views see each other: leave "
                    "it out, position_ids keep them apart; or set layout='three_pass'"
                )
            if (self._is_recurrent or not self._takes_positions) and not mask[:, 0].all():
                raise ValueError(
                    f"{type(self.causal_lm).__name__}, which is recurrent or takes no position_ids, may not tell "
                    "padding from what precedes the text: pad on the right"
                )
            if positions is None:  # also right for rows that are padded on the left
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            return mask, positions
        if attention not in _DENSE_ATTENTION:
            raise ValueError(
                f"attn_implementation={attention!r} does not read a mask of four dimensions, which "
                f"layout={layout!r} needs: use 'sdpa', or layout='packed'"
            )
        self._check_windows(mask.shape[-1])
        if attention == "eager" and mask.dtype == torch.bool:  # it is added to the scores there
            dtype = self.get_input_embeddings().weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        return mask, positions

    def _check_windows(self, length: int) -> None:
        """Refuse what a dense mask, which is taken as it is, would take from a model: its windows."""
        config = self.causal_lm.config.get_text_config()
        for name in ("sliding_window", "attention_chunk_size", "window_size"):  # the last is GPT-Neo's
            window = getattr(config, name, None)
            used = getattr(config, "use_sliding_window", True) or name != "sliding_window"
            if used and isinstance(window, int) and window < length:
                raise ValueError(
                    f"layout={self.config.layout!r} would switch off the {name} of {window} tokens of this model in "
                    f"rows of {length}: use layout='packed' or 'three_pass'"
                )

    @property
    def has_rotary_positions(self) -> bool:
        """Whether a token is told where it stands by rotation, and not by a table that ends somewhere."""
        return any("rotary" in type(part).__name__.lower() for part in self.causal_lm.modules())

    def require_places(self, longest: int) -> None:
        """Refuse sequences that are longer than the table of positions of the language model.

        Args:
            longest: tokens of the longest sequence.

        Raises:
            ValueError: naming both lengths.
        """
        places = getattr(self.causal_lm.config.get_text_config(), "max_position_embeddings", None)
        if places is not None and longest > places and not self.has_rotary_positions:
            raise ValueError(
                f"the longest row has {longest} tokens, but {type(self.causal_lm).__name__} has positions for "
                f"{places}: set max_length={places}, with on_truncation=skip for longer records"
            )

    def _require_class(self) -> None:
        """Refuse models that the layout is wrong for, as far as their class tells; `check_layout` tries it."""
        model, layout = self.causal_lm, self.config.layout
        name = type(model).__name__
        if model.get_output_embeddings() is None or self._decoder is model:
            raise ValueError(f"{name} is no causal language model with an output head")
        if layout == "three_pass":
            return
        remedy = f"layout={layout!r} is not right for {name}, %s: use layout='three_pass'"
        if self._is_recurrent:
            raise ValueError(remedy % "whose recurrent states or convolutions run through a whole row")
        if layout in ("packed", "fused") and not self._takes_positions:
            raise ValueError(remedy % "which takes no position_ids")
        if layout in ("fused", "additive_mask") and getattr(model.config, "alibi", False):
            raise ValueError(remedy % "whose ALiBi is made of a mask of two dimensions")
        if layout == "additive_mask" and not self.has_rotary_positions:
            raise ValueError(remedy.replace("'three_pass'", "'packed'") % "whose positions are absolute")

    @property
    def _settings(self) -> tuple[str, str | None]:
        """Those that say what keeps sequences apart."""
        return self.config.layout, self.causal_lm.config._attn_implementation

    @torch.no_grad()
    def check_layout(self, model: nn.Module | None = None) -> None:
        """Try whether the language model sees what the layout says: a state must be that of its sequence so far alone.

        A class does not tell whether it makes its masks of the positions: of those of transformers 5 Falcon, GPT-OSS,
        OPT and others do not, and would let packed views see each other. The first forward with views tries it, by
        three forwards of a few tokens, unless a training loop has done so.

        Args:
            model: this model as it is trained, wrapped for several processes; itself unless given.

        Raises:
            ValueError: it does not, with the difference.
        """
        device, size = self.get_input_embeddings().weight.device, 8
        tokens = torch.arange(2 * size, device=device)[None]
        tokens = tokens % (self.causal_lm.config.get_text_config().vocab_size - 1) + 1
        place = torch.arange(size, device=device)
        # Two sequences in the form that the layout has, which go on behind the tokens whose states are compared.
        batch = {"input_ids": tokens, "position_ids": place.repeat(2)[None]}
        if self.config.layout == "three_pass":
            batch = {"input_ids": tokens.view(2, size), "attention_mask": torch.ones_like(tokens).view(2, size)}
        elif self.config.layout != "packed":
            sequence = (torch.arange(2 * size, device=device) >= size).long()
            batch["attention_mask"] = (sequence[:, None] == sequence).tril()[None, None]
        if self.config.layout == "additive_mask":
            del batch["position_ids"]
        read = place[:-2]
        self._tried, run = self._settings, self if model is None else model
        modes = {part: part.training for part in run.modules()}
        run.eval()
        try:
            found = run(**batch, text_index=read, code_index=read + size)
            for states, start in ((found.text_embedding, 0), (found.code_embedding, size)):
                rows = {"input_ids": tokens[:, start + read], "position_ids": read[None]}
                alone = run(**rows, text_index=read, code_index=read).text_embedding
                self._require_equal(states.float(), alone.float(), exact=model is None)
        except ValueError:
            self._tried = None
            raise
        finally:
            for part, training in modes.items():
                part.training = training

    def _require_equal(self, found: torch.Tensor, alone: torch.Tensor, exact: bool) -> None:
        weight, layout = self.get_input_embeddings().weight, self.config.layout
        # A wrapper may compute in 16 bits, which rounds differently beside other tokens.
        exact = exact and weight.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        exact = exact and not torch.is_autocast_enabled(weight.device.type)
        # Of the longest state: that of a padding token with a zero embedding may be zero.
        difference = ((found - alone).norm(dim=-1).max() / alone.norm(dim=-1).max()).item()
        if not difference <= (1e-4 if exact else 3e-2):
            hint = "it is no causal language model" if layout == "three_pass" else "use layout='three_pass'"
            raise ValueError(
                f"layout={layout!r} is not right for {type(self.causal_lm).__name__}: the state of a token changes by "
                f"{difference:.1%} with tokens that it must not see; {hint}"
            )


__all__ = ["SeparationMixin"]
