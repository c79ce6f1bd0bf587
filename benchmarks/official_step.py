"""A plain restatement of the official I-JEPA training step, written from its description, to measure against.

Fused qkv, eager attention, one sequence per target block, default AdamW, norms of the encoder's weight gradients and
the loss read on the host at every step, an average that loops over parameters.
"""

import torch
from torch import nn

from hf_jepa.layers.position import sincos_2d


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, mlp), nn.Linear(mlp, dim)

    def forward(self, x):
        rows, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(rows, tokens, dim))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


def keep(x, masks):
    return torch.cat([x.gather(1, m.unsqueeze(-1).repeat(1, 1, x.shape[-1])) for m in masks])


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, patch: int, grid: int):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.positions = nn.Parameter(sincos_2d(dim, (grid, grid)), requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, heads, 4 * dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images, masks=None):
        x = self.patch(images).flatten(2).transpose(1, 2) + self.positions
        x = x if masks is None else keep(x, masks)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, dim: int, width: int, depth: int, heads: int, grid: int):
        super().__init__()
        self.embed, self.out = nn.Linear(dim, width), nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(sincos_2d(width, (grid, grid)), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x, contexts, targets):
        table = self.positions.repeat(contexts[0].shape[0], 1, 1)
        x = (self.embed(x) + keep(table, contexts)).repeat(len(targets), 1, 1)
        queries = self.mask_token + keep(table, targets)
        length = queries.shape[1]
        x = torch.cat([x, queries], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)[:, -length:])


class OfficialStep:
    """Context encoder, target encoder, predictor, optimizer, and one call per step (one context mask)."""

    def __init__(
        self, dim: int, depth: int, heads: int, pred_dim: int, pred_depth: int, patch: int = 16, grid: int = 14
    ):
        self.encoder, self.target = (Encoder(dim, depth, heads, patch, grid) for _ in range(2))
        self.predictor = Predictor(dim, pred_dim, pred_depth, heads, grid)
        named = [*self.encoder.named_parameters(), *self.predictor.named_parameters()]
        plain = [p for n, p in named if "bias" in n or p.ndim == 1]
        decayed = [p for n, p in named if not ("bias" in n or p.ndim == 1)]
        groups = [{"params": decayed, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)

    def loss(self, images, contexts, targets):
        with torch.no_grad():
            hidden = self.target(images)
            hidden = keep(nn.functional.layer_norm(hidden, hidden.shape[-1:]), targets)
        return nn.functional.smooth_l1_loss(self.predictor(self.encoder(images, contexts), contexts, targets), hidden)

    def average(self, momentum: float):
        with torch.no_grad():
            for target, source in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                target.mul_(momentum).add_((1.0 - momentum) * source.detach())

    def __call__(self, images, contexts, targets):
        loss = self.loss(images, contexts, targets)
        loss.backward()
        self.optimizer.step()
        norms = [float(torch.norm(p.grad)) for p in self.encoder.parameters() if p.grad is not None and p.ndim > 1]
        self.optimizer.zero_grad()
        self.average(0.996)
        return float(loss.detach()), norms

    def load(self, model) -> None:
        """Take the weights of one of our models."""
        pairs = ((self.encoder, model.context_encoder), (self.target, model.target_encoder))
        for mine, theirs in pairs:
            mine.patch.load_state_dict(theirs.embeddings.patch_embeddings.projection.state_dict())
            _load_stack(mine, theirs)
        self.predictor.embed.load_state_dict(model.predictor.embed.state_dict())
        self.predictor.out.load_state_dict(model.predictor.proj.state_dict())
        self.predictor.mask_token.data.copy_(model.predictor.mask_token.data)
        _load_stack(self.predictor, model.predictor)


def _load_stack(mine, theirs) -> None:
    mine.norm.load_state_dict(theirs.layernorm.state_dict())
    for block, layer in zip(mine.blocks, theirs.layers, strict=True):
        attention = layer.attention
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, f"{part}_proj"), kind).data for part in "qkv"]
            getattr(block.qkv, kind).data.copy_(torch.cat(parts))
        for name, source in (
            ("norm1", layer.layernorm_before),
            ("norm2", layer.layernorm_after),
            ("proj", attention.o_proj),
            ("fc1", layer.mlp.fc1),
            ("fc2", layer.mlp.fc2),
        ):
            getattr(block, name).load_state_dict(source.state_dict())
