"""A plain restatement of the official V-JEPA 2 training step, written from its description, to measure against.

One forward of encoder and predictor for every mask, angles, sines and cosines computed anew for queries and keys of
every layer and axis (and for every head where tokens are masked), a predictor that sorts its tokens, default AdamW.
"""

import torch
from torch import nn


def positions(index, grid):
    """Frame, row and column of row-major token indices."""
    _, rows, columns = grid
    frame = index // (rows * columns)
    rest = index - frame * rows * columns
    return frame, rest // columns, rest - rest // columns * columns


def turn(x, place):
    """One axis: x (B, H, N, d), place (N,) or (B, H, N)."""
    half = x.shape[-1] // 2
    omega = 1.0 / 10000 ** (torch.arange(half, dtype=x.dtype) / half)
    angle = place.unsqueeze(-1) * omega
    cos, sin = angle.cos().repeat(*[1] * place.ndim, 2), angle.sin().repeat(*[1] * place.ndim, 2)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.axis = heads, 2 * (dim // heads // 3 // 2)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x, grid, mask=None):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        index = torch.arange(x.shape[1]) if mask is None else mask.unsqueeze(1).repeat(1, self.heads, 1)
        q, k = (self.rotate(part, positions(index, grid)) for part in (q, k))
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))

    def rotate(self, x, places):
        *axes, rest = x.split([self.axis] * 3 + [x.shape[-1] - 3 * self.axis], dim=-1)
        return torch.cat([*(turn(part, place) for part, place in zip(axes, places, strict=True)), rest], dim=-1)


def keep(x, mask):
    return x.gather(1, mask.unsqueeze(-1).repeat(1, 1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, grid, tubelet):
        super().__init__()
        self.grid = grid
        self.patch = nn.Conv3d(3, dim, tubelet, tubelet)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, clips, mask=None):
        x = self.patch(clips).flatten(2).transpose(1, 2)
        x = x if mask is None else keep(x, mask)
        for block in self.blocks:
            x = block(x, self.grid, mask)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, dim: int, width: int, depth: int, heads: int, grid, tokens: int):
        super().__init__()
        self.grid = grid
        self.embed, self.out = nn.Linear(dim, width), nn.Linear(width, dim)
        self.mask_tokens = nn.ParameterList(torch.zeros(1, 1, width) for _ in range(tokens))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x, context, target, mask_index=0):
        queries = self.mask_tokens[mask_index].repeat(len(x), target.shape[1], 1)
        x, index = torch.cat([self.embed(x), queries], dim=1), torch.cat([context, target], dim=1)
        order = index.argsort(dim=1)
        x, index = keep(x, order), index.gather(1, order)
        for block in self.blocks:
            x = block(x, self.grid, index)
        return self.out(keep(self.norm(x), order.argsort(dim=1))[:, -target.shape[1] :])


class OfficialVideoStep:
    """Context encoder, target encoder, predictor, optimizer, and one call per step.

    Args:
        model: one of our pretraining models, whose sizes and weights it takes.
    """

    def __init__(self, model):
        config = model.config
        grid, tubelet = config.grid_size, (config.tubelet_size, config.patch_size, config.patch_size)
        sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, grid, tubelet)
        self.encoder, self.target = Encoder(*sizes), Encoder(*sizes)
        self.predictor = Predictor(
            config.hidden_size,
            config.pred_hidden_size,
            config.pred_num_hidden_layers,
            config.pred_num_attention_heads,
            grid,
            config.pred_num_mask_tokens,
        )
        self._load(model)
        named = [*self.encoder.named_parameters(), *self.predictor.named_parameters()]
        plain = [p for n, p in named if "bias" in n or p.ndim == 1]
        decayed = [p for n, p in named if not ("bias" in n or p.ndim == 1)]
        groups = [{"params": decayed, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)

    def predict(self, clips, contexts, targets):
        """clips (B, C, T, H, W) -> a prediction for every mask."""
        return [self.predictor(self.encoder(clips, c), c, t) for c, t in zip(contexts, targets, strict=True)]

    def loss(self, clips, contexts, targets):
        with torch.no_grad():
            hidden = self.target(clips)
            hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
            wanted = [keep(hidden, mask) for mask in targets]
        predictions = self.predict(clips, contexts, targets)
        return sum((p - w).abs().mean() for p, w in zip(predictions, wanted, strict=True)) / len(wanted)

    def average(self, momentum: float):
        with torch.no_grad():
            target, source = list(self.target.parameters()), list(self.encoder.parameters())
            torch._foreach_mul_(target, momentum)
            torch._foreach_add_(target, source, alpha=1.0 - momentum)

    def __call__(self, clips, contexts, targets):
        loss = self.loss(clips, contexts, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average(0.99925)
        return float(loss.detach())

    def _load(self, model) -> None:
        for mine, theirs in ((self.encoder, model.context_encoder), (self.target, model.target_encoder)):
            mine.patch.load_state_dict(theirs.embeddings.patch_embeddings.proj.state_dict())
            _load_stack(mine, theirs)
        self.predictor.embed.load_state_dict(model.predictor.embeddings.predictor_embeddings.state_dict())
        self.predictor.out.load_state_dict(model.predictor.proj.state_dict())
        for mine, theirs in zip(self.predictor.mask_tokens, model.predictor.embeddings.mask_tokens, strict=True):
            mine.data.copy_(theirs.data)
        _load_stack(self.predictor, model.predictor)


def _load_stack(mine, theirs) -> None:
    mine.norm.load_state_dict(theirs.layernorm.state_dict())
    for block, layer in zip(mine.blocks, theirs.layer, strict=True):
        attention = layer.attention
        for kind in ("weight", "bias"):
            parts = [getattr(part, kind).data for part in (attention.query, attention.key, attention.value)]
            getattr(block.qkv, kind).data.copy_(torch.cat(parts))
        for name, source in (
            ("norm1", layer.norm1),
            ("norm2", layer.norm2),
            ("proj", attention.proj),
            ("fc1", layer.mlp.fc1),
            ("fc2", layer.mlp.fc2),
        ):
            getattr(block, name).load_state_dict(source.state_dict())
