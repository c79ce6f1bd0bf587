"""Optimizers beside AdamW: SGD, and LARS for large batches."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from hf_jepa.training.optimizer import build_optimizer, parameter_groups


OPTIMIZERS = ("adamw", "lars", "sgd")


class Lars(torch.optim.Optimizer):
    """SGD with momentum in which the length of every weight matrix decides how far it moves (LARS, 1708.03888).

    The gradient g of a parameter w, weight decay included, is scaled by `eta * |w| / |g|` before it enters the
    momentum; by 1 where w or g is zero. Groups with `adapts` False, those of biases and norms, are plain SGD.

    With `clip` the step of a parameter is never longer than that of plain SGD: the scale is
    min(eta * |w| / |g|, lr) / lr (LARC), as in the recipes of solo-learn, which Rectified LpJEPA uses.

    Args:
        params: parameters or groups; groups may have their own "lr", "weight_decay" and "adapts".
        lr: learning rate.
        momentum: of the scaled gradients.
        weight_decay: added to the gradient before it is scaled.
        eta: trust coefficient.
        clip: see above.

    Raises:
        ValueError: a negative number, or a momentum of 1 or more.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> optimizer = Lars(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        clip: bool = False,
    ):
        for name, value in {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}.items():
            if value < 0 or (name == "momentum" and value >= 1):
                raise ValueError(f"{name}={value} of LARS is out of range")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "clip": clip}
        super().__init__(params, defaults | {"adapts": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._move(parameters, group)
        return loss

    def _move(self, parameters: list[nn.Parameter], group: dict) -> None:
        updates = [parameter.grad for parameter in parameters]
        if group["weight_decay"]:
            updates = torch._foreach_add(updates, parameters, alpha=group["weight_decay"])
        if group["adapts"]:
            norms = zip(torch._foreach_norm(parameters), torch._foreach_norm(updates), strict=True)
            updates = torch._foreach_mul(updates, [self._trust(*pair, group) for pair in norms])
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])

    @staticmethod
    def _trust(weight: torch.Tensor, gradient: torch.Tensor, group: dict) -> torch.Tensor:
        """Scale of a gradient from the two norms, without reading them on the host."""
        trust = group["eta"] * weight / gradient
        if group["clip"]:
            trust = (trust / group["lr"]).clamp(max=1.0) if group["lr"] > 0 else torch.ones_like(trust)
        return torch.where((weight > 0) & (gradient > 0), trust, 1.0)


@dataclass
class OptimizerArguments:
    """Which optimizer, and what AdamW does not have."""

    optimizer: str = field(
        default="adamw", metadata={"help": "'adamw', 'lars' or 'sgd'.", "choices": list(OPTIMIZERS)}
    )
    sgd_momentum: float = field(default=0.9, metadata={"help": "Momentum of the gradients, of 'lars' and 'sgd'."})
    lars_eta: float = field(default=1e-3, metadata={"help": "Trust coefficient of 'lars'."})
    lars_clip: bool = field(default=False, metadata={"help": "Let 'lars' never move further than 'sgd' would."})
    constant_predictor_lr: bool = field(
        default=False, metadata={"help": "Keep the peak learning rate in the predictor (SimSiam)."}
    )

    def build_optimizer(
        self,
        model: nn.Module,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> torch.optim.Optimizer:
        """The optimizer over `parameter_groups`: biases and norms are not decayed, and by LARS not scaled.

        Groups whose learning rate shall not follow the schedule have "constant_lr" True, all others False.

        Args:
            model, learning_rate, weight_decay, betas, eps: as for `build_optimizer`; the last two are AdamW's alone.

        Raises:
            ValueError: an unknown optimizer, or `constant_predictor_lr` for a model without predictor.
        """
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if self.optimizer == "adamw":
            optimizer = build_optimizer(model, learning_rate, weight_decay, betas, eps)
        elif self.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameter_groups(model, weight_decay), learning_rate, self.sgd_momentum)
        else:
            groups = [group | {"adapts": group["decays"]} for group in parameter_groups(model, weight_decay)]
            optimizer = Lars(groups, learning_rate, self.sgd_momentum, eta=self.lars_eta, clip=self.lars_clip)
        self._mark_constant(optimizer, model)
        return optimizer

    def _mark_constant(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        constant: set[nn.Parameter] = set()
        if self.constant_predictor_lr:
            if getattr(model, "predictor", None) is None:
                raise ValueError(f"constant_predictor_lr: {type(model).__name__} has no predictor")
            constant = set(model.predictor.parameters())
        for group in list(optimizer.param_groups):
            inside = [parameter for parameter in group["params"] if parameter in constant]
            group["constant_lr"] = bool(inside) and len(inside) == len(group["params"])
            if inside and not group["constant_lr"]:  # such as projector and predictor
                group["params"] = [parameter for parameter in group["params"] if parameter not in constant]
                optimizer.add_param_group(group | {"params": inside, "constant_lr": True})


__all__ = ["OPTIMIZERS", "Lars", "OptimizerArguments"]
