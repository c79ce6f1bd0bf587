"""The predictor of VL-JEPA: the last layers of a language model, which attend to a clip and a query both ways."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from hf_jepa.losses.distributed import full_precision
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.language_model_vl_jepa import new_language_model, require_both_ways


@dataclass
class VLJepaPredictorOutput(ModelOutput):
    """What a `VLJepaPredictor` says.

    Args:
        predictions: (B, D), not normalised.
        pooled: (B, H), what they were projected from.
        last_hidden_state: (B, N + L, H) behind the final norm: vision tokens, then the query. At padding it says
            nothing.
        mask: (B, N + L) bool, False at padding.
        hidden_states, attentions: of the language model, when asked for.
    """

    predictions: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def tokens_first(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and their bool mask, both (B, L), in an order in which padding comes last.

    Example:
        >>> ids, mask = tokens_first(torch.tensor([[0, 5, 6]]), torch.tensor([[False, True, True]]))
        >>> ids.tolist(), mask.tolist()
        ([[5, 6, 0]], [[True, True, False]])
    """
    order = (~mask).int().argsort(dim=1, stable=True)  # without looking at it, which would wait for a GPU
    return ids.gather(1, order), mask.gather(1, order)


def packed_tokens(
    ids: torch.Tensor, mask: torch.Tensor | None, name: str, longest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids with their padding on the right, wherever it was.

    Args:
        ids: (B, L)
        mask: (B, L), 1 for tokens and 0 for padding; no padding when unset.
        name: of the ids, for messages.
        longest: that L may be.

    Returns:
        ids and a bool mask, both (B, L).

    Raises:
        ValueError: other shapes, or more than `longest` tokens.

    Example:
        >>> ids, mask = packed_tokens(torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]]), "query", 4)
        >>> ids.tolist(), mask.tolist()
        ([[5, 6, 0, 0]], [[True, True, False, False]])
    """
    if ids.ndim != 2:
        raise ValueError(f"{name}_ids has shape {tuple(ids.shape)}, expected (batch, tokens)")
    if ids.shape[1] > longest:
        raise ValueError(
            f"{name}_ids has {ids.shape[1]} tokens a row, more than max_{name}_length {longest} of the config: cut "
            "them in the tokenizer (truncation=True), or raise it"
        )
    if mask is None:
        return ids, torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise ValueError(f"{name}_mask has shape {tuple(mask.shape)}, but {name}_ids {tuple(ids.shape)}")
    return tokens_first(ids, mask.bool())


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each row that are no padding, summed in float32.

    Args:
        states: (B, N, H)
        mask: (B, N) bool, some token in every row.

    Returns:
        (B, H), of the type of `states`.

    Example:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).tolist()
        [[2.0]]
    """
    kept = states.masked_fill(~mask.unsqueeze(-1), 0.0)
    return (full_precision(kept).sum(dim=1) / mask.sum(dim=1, keepdim=True)).to(states.dtype)


class VLJepaPredictor(nn.Module):
    """Vision tokens and the tokens of a query in, the embedding of a text out (2512.10942, section 3.1).

    Both go through linear layers or embeddings into the language model, vision tokens first, with positions 0, 1, ...
    over both, and attend to all that is no padding. The mean over what is no padding is projected.

    Args:
        config: its `predictor_config` is the language model.
        language_model: that model; one with random weights unless given.

    Raises:
        ValueError: a language model that is not built like Llama, or whose attention stays causal.

    Example:
        >>> from hf_jepa import VLJepaConfig
        >>> llama = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
        ...          "num_attention_heads": 2}
        >>> config = VLJepaConfig(predictor_config=llama, num_predictor_layers=2, projection_dim=8)
        >>> predictor = VLJepaPredictor(config)
        >>> vision_tokens, query = torch.randn(2, 5, 1024), torch.tensor([[7, 3, 4], [9, 0, 0]])
        >>> mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
        >>> out = predictor(vision_tokens, query, mask)
        >>> out.predictions.shape, out.last_hidden_state.shape
        (torch.Size([2, 8]), torch.Size([2, 8, 16]))
    """

    def __init__(self, config: VLJepaConfig, language_model: PreTrainedModel | None = None):
        super().__init__()
        self.config = config
        width = config.predictor_config.hidden_size
        self.vision_projection = nn.Linear(config.vision_hidden_size, width)
        self.language_model = new_language_model(config.predictor_config) if language_model is None else language_model
        self.projection = nn.Linear(width, config.projection_dim)
        self.language_model.config.is_causal = config.causal  # of which transformers tells masks and kernels
        if not config.causal:
            require_both_ways(self.language_model)

    def forward(
        self,
        vision_tokens: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> VLJepaPredictorOutput:
        """Predict the embedding of a text.

        Args:
            vision_tokens: (B, N, Dv), what the X-Encoder says; None for a query alone.
            query_ids: (B, L) token ids; None where nothing is asked (pretraining without queries), which is the same
                as a query of padding alone.
            query_mask: (B, L), 1 for tokens and 0 for padding, on whichever side.
            kwargs: of the language model, such as `output_hidden_states`.

        Raises:
            ValueError: neither clip nor query, also of one sample alone; shapes that do not fit; a query that is too
                long.
        """
        embedded, masks = [], []
        if vision_tokens is not None:
            self._require_vision(vision_tokens)
            embedded.append(self.vision_projection(vision_tokens.to(self.vision_projection.weight.dtype)))
            masks.append(torch.ones(vision_tokens.shape[:2], dtype=torch.bool, device=vision_tokens.device))
        if query_ids is not None:
            ids, mask = packed_tokens(query_ids, query_mask, "query", self.config.max_query_length)
            self._require_something(vision_tokens, mask)
            embedded.append(self.language_model.get_input_embeddings()(ids))
            masks.append(mask)
        elif query_mask is not None:
            raise ValueError("query_mask says which of the query_ids are padding: give the query_ids, too")
        if not embedded:
            raise ValueError("a prediction is made from vision tokens, a query or both: give one of them")
        seen = torch.cat(masks, dim=1)  # (B, N + L)
        output = self.language_model(
            inputs_embeds=torch.cat(embedded, dim=1),
            attention_mask=None if query_ids is None else seen,
            use_cache=False,
            **kwargs,
        )
        pooled = masked_mean(output.last_hidden_state, self._pooled_places(seen, masks, query_ids is not None))
        return VLJepaPredictorOutput(
            predictions=self.projection(pooled),
            pooled=pooled,
            last_hidden_state=output.last_hidden_state,
            mask=seen,
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    def _pooled_places(self, seen: torch.Tensor, masks: list[torch.Tensor], asked: bool) -> torch.Tensor:
        if self.config.pooling == "all" or not asked or len(masks) == 1:
            return seen
        query = masks[-1]
        places = torch.cat([torch.zeros_like(masks[0]), query], dim=1)
        return torch.where(query.any(dim=1, keepdim=True), places, seen)  # where a query is empty, all

    def _require_vision(self, vision_tokens: torch.Tensor) -> None:
        width = self.vision_projection.in_features
        if vision_tokens.ndim != 3 or vision_tokens.shape[-1] != width or not vision_tokens.shape[1]:
            raise ValueError(
                f"vision_tokens has shape {tuple(vision_tokens.shape)}, expected (batch, tokens, {width}) with one "
                "token or more"
            )

    @staticmethod
    def _require_something(vision_tokens: torch.Tensor | None, mask: torch.Tensor) -> None:
        if vision_tokens is None:
            if empty := (~mask.any(dim=1)).nonzero().flatten().tolist():
                raise ValueError(f"rows {empty[:5]} have neither vision tokens nor a query: nothing can be predicted")
        elif len(vision_tokens) != len(mask):
            raise ValueError(
                f"vision_tokens are of {len(vision_tokens)} samples, but query_ids of {len(mask)}: one query for each"
            )


__all__ = ["VLJepaPredictor", "VLJepaPredictorOutput", "masked_mean", "packed_tokens", "tokens_first"]
