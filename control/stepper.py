"""What moves the weights of M members: Adam with a memory for each, and targets that follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from control.agent import Agent
from control.moments import Moments
from control.streams import Active


class Stepper:
    """Adam over some networks, with every member's moments and step count its own.

    A member that must not move is left out of the step altogether: a zero gradient would still
    move it by Adam's momentum.
    """

    def __init__(self, agent: Agent, views: Sequence[Agent], rates: dict[str, float]) -> None:
        """Prepare to train the named networks of `agent` at their learning rates.

        Args:
            agent: of M members.
            views: `agent.member(m)` for every m; shared by all steppers and by resets.
            rates: network name to learning rate.
        """
        if len(views) != agent.members:
            raise ValueError(f"views: wanted one a member ({agent.members}), got {len(views)}")
        self.names = tuple(rates)
        self.parameters = _parameters(agent, self.names)
        self._sums = [torch.zeros_like(p) for p in self.parameters]
        for p, total in zip(self.parameters, self._sums, strict=True):
            p.grad = total
        self.views = [_parameters(view, self.names) for view in views]
        self.grads = [
            [g[m * len(g) // agent.members : (m + 1) * len(g) // agent.members] for g in self._sums]
            for m in range(agent.members)
        ]
        groups = [
            {"params": [p for view in views for p in _parameters(view, (name,))], "lr": rate}
            for name, rate in rates.items()
        ]
        self.adam = torch.optim.Adam(groups, fused=True)
        self._active: tuple[bool, ...] = ()
        self._moments = Moments(self.parameters, self.views)
        counts = [len(_parameters(agent, (name,))) for name in rates]
        ends = list(itertools.accumulate(counts))
        self._spans = [slice(end - n, end) for end, n in zip(ends, counts, strict=True)]

    def minimize(self, loss: Tensor, active: Active) -> None:
        """Take one step down the gradient of `loss`, a sum over members, for those active."""
        if all(active) and self._moments.together(self.adam.state):
            self._step_together(torch.autograd.grad(loss, self.parameters))
            return
        self._moments.parted()
        torch.autograd.backward(loss, inputs=self.parameters)
        if tuple(active) != self._active:
            self._active = tuple(active)
            for on, views, grads in zip(active, self.views, self.grads, strict=True):
                for view, grad in zip(views, grads, strict=True):
                    view.grad = grad if on else None
        self.adam.step()
        torch._foreach_zero_(self._sums)

    @torch.no_grad()
    def _step_together(self, grads: Sequence[Tensor]) -> None:
        """Step all members at once; by views, Adam's bookkeeping costs more than its step."""
        own = self._moments
        own.counts += 1
        for group, span in zip(self.adam.param_groups, self._spans, strict=True):
            parameters: list[Tensor] = list(self.parameters[span])
            beta1, beta2 = group["betas"]
            torch._fused_adam_(
                parameters, list(grads[span]), own.first[span], own.second[span], [],
                [own.counts[0]] * len(parameters), lr=group["lr"], beta1=beta1, beta2=beta2,
                weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip


class MemberState(MutableMapping[Any, Any]):
    """What all steppers remember of one member: an optimizer's `state`, for resets."""

    def __init__(self, steppers: Sequence[Stepper], m: int) -> None:
        """Look at member m."""
        self._where = {p: stepper.adam.state for stepper in steppers for p in stepper.views[m]}

    @property
    def state(self) -> MemberState:
        """Itself, where an optimizer is wanted."""
        return self

    def __getitem__(self, key: Any) -> Any:
        if key not in self._where or key not in self._where[key]:
            raise KeyError(key)
        return self._where[key][key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._where[key][key] = value

    def __delitem__(self, key: Any) -> None:
        self[key]
        del self._where[key][key]

    def __iter__(self) -> Iterator[Any]:
        return (p for p, state in self._where.items() if p in state)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@torch.no_grad()
def follow_(agent: Agent, views: Sequence[Agent], tau: float, active: Active) -> None:
    """Move the targets of the active members: target += tau * (source - target)."""
    followers = [agent] if all(active) else [v for v, on in zip(views, active, strict=True) if on]
    for one in followers:
        targets, sources = zip(*one.target_pairs(), strict=True)
        torch._foreach_lerp_(list(targets), list(sources), tau)


def _parameters(agent: Agent, names: Sequence[str]) -> list[nn.Parameter]:
    return [p for network in agent.networks_of(*names) for p in network.parameters()]
