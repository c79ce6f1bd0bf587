"""The transformer layer of predictors that go from frame to frame: a token sees its own frame and those before it.

No mask is needed for that: the tokens of each frame are queries of their own, and their keys end with their frame. It
is exact, half the work of a mask over everything, and each attention is one that all back ends have kernels for. Keys
and values of past frames do not depend on what comes after them, so they can be kept (`FrameCache`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_jepa.layers.packed_transformer import PackedAttention, PackedTransformerLayer, Rotary
from hf_jepa.layers.rotary import rotate


KeysValues = tuple[torch.Tensor, torch.Tensor]  # (B, N, H, d) each, keys already turned by their positions


@dataclass(frozen=True)
class FrameCache:
    """Keys and values of past frames, in all layers, piece by piece.

    A piece may have fewer rows than another: each row then belongs to as many consecutive rows of that one. So what
    many samples share is kept once.

    Args:
        num_frames: how many frames the pieces hold together.
        layers: of every layer its pieces, oldest first.

    Example:
        >>> keys = torch.zeros(2, 3, 4, 8)
        >>> cache = FrameCache().extended([(keys, keys)], num_frames=1)
        >>> cache.num_frames, len(cache.extended([(keys, keys)], num_frames=1).layers[0])
        (1, 2)
    """

    num_frames: int = 0
    layers: tuple[tuple[KeysValues, ...], ...] = ()

    def of_layer(self, index: int) -> tuple[KeysValues, ...]:
        """The pieces of a layer, none where nothing is kept yet."""
        return self.layers[index] if self.layers else ()

    def extended(self, new: Sequence[KeysValues], num_frames: int) -> "FrameCache":
        """This cache and the frames after it, one pair of keys and values for every layer."""
        pieces = self.layers or ((),) * len(new)
        layers = tuple((*old, added) for old, added in zip(pieces, new, strict=True))
        return FrameCache(self.num_frames + num_frames, layers)

    def first(self, num_frames: int) -> "FrameCache":
        """The first frames of a cache of one piece."""
        length = self.layers[0][0][0].shape[1] // self.num_frames * num_frames
        layers = tuple(((keys[:, :length], values[:, :length]),) for ((keys, values),) in self.layers)
        return FrameCache(num_frames, layers)

    def __getitem__(self, rows: slice) -> "FrameCache":
        """The cache of some rows, where all pieces have the same."""
        layers = tuple(tuple((keys[rows], values[rows]) for keys, values in pieces) for pieces in self.layers)
        return FrameCache(self.num_frames, layers)


def join_pieces(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pieces (B_i, N_i, ...) one after another, rows of the shorter ones repeated: (max B_i, sum N_i, ...).

    Example:
        >>> shared, own = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[2], [3], [4], [5]])
        >>> join_pieces([shared, own]).tolist()
        [[0, 0, 2], [0, 0, 3], [1, 1, 4], [1, 1, 5]]
    """
    if len(pieces) == 1:
        return pieces[0]
    fewest, most = min(map(len, pieces)), max(map(len, pieces))
    if fewest == most:
        return torch.cat(list(pieces), dim=1)
    groups = [piece.unflatten(0, (fewest, -1)) for piece in pieces]
    groups = [group.expand(-1, most // fewest, *group.shape[2:]) for group in groups]
    return torch.cat(groups, dim=2).flatten(0, 1)


class FrameCausalAttention(PackedAttention):
    """Self-attention among the tokens of a frame and of all frames before it.

    Args:
        config, dim, num_heads, qkv_bias, dropout: see `PackedAttention`.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        num_frames: int,
        rotary: Rotary,
        past: Sequence[KeysValues] = (),
        causal: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            hidden_states: (B, T * n, D), frame after frame.
            num_frames: T.
            rotary: cosines and sines of these tokens, (1, T * n, 1, d).
            past: keys and values of the frames before, which all tokens see.
            causal: False lets tokens see the frames after theirs as well.

        Returns:
            (B, T * n, D), and the keys and values of these tokens, (B, T * n, H, d).
        """
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(hidden_states).unflatten(-1, (-1, self.head_dim)) for layer in layers)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        keys = join_pieces([*(keys for keys, _ in past), key])
        values = join_pieces([*(values for _, values in past), value])
        if causal and num_frames > 1:
            length, before = hidden_states.shape[1] // num_frames, keys.shape[1] - hidden_states.shape[1]
            ends = [before + length * (frame + 1) for frame in range(num_frames)]
            frames = zip(query.split(length, dim=1), ends, strict=True)
            out = torch.cat([self._attend(own, keys[:, :end], values[:, :end])[0] for own, end in frames], dim=1)
        else:
            out, _ = self._attend(query, keys, values)
        return self.proj(out.flatten(-2)), key, value


class FrameCausalLayer(PackedTransformerLayer):
    """A `PackedTransformerLayer`, of the same parameters, whose tokens see no later frame.

    Args:
        others: see `PackedTransformerLayer`; there is no stochastic depth.
    """

    attention_class = FrameCausalAttention

    def forward(self, hidden_states: torch.Tensor, *told: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Update tokens (B, T * n, D); further arguments and outputs are those of `FrameCausalAttention`."""
        attended, key, value = self.attention(self.norm1(hidden_states), *told)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.norm2(hidden_states)), key, value


__all__ = ["FrameCache", "FrameCausalAttention", "FrameCausalLayer", "KeysValues", "join_pieces"]
