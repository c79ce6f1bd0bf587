"""How far the embedding of one view is from that of the other, pair by pair."""

import torch
from torch import nn

from hf_jepa.losses.distributed import full_precision
from hf_jepa.losses.infonce import infonce


DISTANCES = ("cosine", "l2", "mse", "infonce")


def pair_distance(
    text: torch.Tensor,
    code: torch.Tensor,
    distance: str = "cosine",
    temperature: float = 0.07,
    symmetric: bool = False,
    gather: bool = False,
) -> torch.Tensor:
    """Distances of LLM-JEPA (2509.14252, eq. 2 and table 3), one for each pair; the loss is their mean.

    Args:
        text, code: embeddings of the two views, (B, D).
        distance: "cosine", one minus the cosine similarity; "l2", the Euclidean distance, not squared; "mse", the mean
            squared difference over channels; "infonce", see `infonce`, whose queries are the Text embeddings.
        temperature, symmetric, gather: of "infonce".

    Returns:
        (B,), float32 at least.

    Raises:
        ValueError: unknown `distance`, or shapes that differ.

    Example:
        >>> text, code = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]])
        >>> pair_distance(text, code, "l2").item(), pair_distance(text, code, "mse").item()
        (5.0, 12.5)
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance {distance!r} is not one of {', '.join(DISTANCES)}")
    if text.ndim != 2 or text.shape != code.shape:
        raise ValueError(f"text {tuple(text.shape)} and code {tuple(code.shape)} must both be (B, D)")
    if distance == "infonce":
        return infonce(text, code, temperature, symmetric, gather)
    text, code = full_precision(text), full_precision(code)
    if distance == "cosine":
        return 1 - nn.functional.cosine_similarity(text, code, dim=-1)
    difference = text - code
    return torch.linalg.vector_norm(difference, dim=-1) if distance == "l2" else difference.square().mean(dim=-1)


__all__ = ["DISTANCES", "pair_distance"]
