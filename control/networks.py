"""Networks of M members at once: policies, critic ensembles, values.

Every weight and every input holds the members in its leading dimension, and one batched product
serves them all. A lone run is M = 1. Products dominate a step on a CPU from width 256 on, and the
cost of a call below; batching members pays for the second.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.stack import Layer, outgrown, relu_stack
from posttrain.intervention.kl import gaussian_kl, squashed_gaussian_kl, squashed_gaussian_log_prob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control.algorithm_settings import PolicyKind

LOG_STD = (-5.0, 2.0)
"""Bounds of a Gaussian policy's log standard deviation. A new one starts at the middle, 0.22: with
-10 for the lower bound it starts at 0.02, where given actions have a likelihood of e^-1000 and a
clone spends its first thousand updates on widening.
"""
EDGE = 1 - 1e-5
"""Actions of data are moved inside this, where the inverse of tanh is finite (WSRL's clip)."""


class Dense(nn.Module):
    """n affine maps side by side: `[n, B, i]` to `[n, B, o]`."""

    def __init__(self, n: int, inputs: int, outputs: int) -> None:
        """Leave the weights undrawn: `reset_parameters` draws them."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(n, 1, outputs))

    def reset_parameters(self) -> None:
        """Draw uniformly from +-1/sqrt(inputs), torch's rule for linear layers."""
        _draw_uniformly_(self.weight, self.bias)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        """Map each member's rows by its own weights; `every` takes only each so-manieth map."""
        return _affine(x, self.weight, self.bias, every)


class Hidden(nn.Module):
    """A hidden layer: an affine map, layer normalisation where wanted, ReLU.

    One module owns all of its weights, so that a reset of a layer takes its normalisation with it.
    """

    gain: nn.Parameter | None
    offset: nn.Parameter | None

    def __init__(self, n: int, inputs: int, outputs: int, *, norm: bool) -> None:
        """Leave the weights undrawn: `reset_parameters` draws them."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(n, 1, outputs))
        self.gain = nn.Parameter(torch.ones(n, 1, outputs)) if norm else None
        self.offset = nn.Parameter(torch.zeros(n, 1, outputs)) if norm else None

    def reset_parameters(self) -> None:
        """Draw as `Dense` does; a normalisation begins as the identity."""
        _draw_uniformly_(self.weight, self.bias)
        if self.gain is not None and self.offset is not None:
            nn.init.ones_(self.gain)
            nn.init.zeros_(self.offset)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        """Features `[n, B, o]`."""
        x = _affine(x, self.weight, self.bias, every)
        if self.gain is not None and self.offset is not None:
            flat = F.layer_norm(x, x.shape[-1:])
            x = torch.addcmul(self.offset[::every], flat, self.gain[::every])
        return F.relu_(x)


class MLP(nn.Module):
    """Hidden layers, one after the other."""

    def __init__(self, n: int, inputs: int, hidden: Sequence[int], *, norm: bool) -> None:
        """Stack the layers."""
        super().__init__()
        widths = [inputs, *hidden]
        self.dense = nn.ModuleList(Hidden(n, i, o, norm=norm) for i, o in pairwise(widths))

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        """Features `[n, B, h]`."""
        for layer in self.dense:
            x = layer(x, every)
        return x


class Policy(NamedTuple):
    """What a policy says about a batch of states.

    Squashed: the action is tanh(u), u ~ N(mean, std^2). Otherwise `mean` is the action itself and
    `std` the exploration noise around it.
    """

    mean: Tensor
    """`[M, B, A]`."""
    std: Tensor
    """`[M, B, A]`, or a scalar."""
    squashed: bool

    def mode(self) -> Tensor:
        """The action without noise, `[M, B, A]`."""
        return torch.tanh(self.mean) if self.squashed else self.mean

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Turn standard normal noise `[M, B, A]` into actions and their log-density `[M, B]`.

        The density of an action that was clipped to the box is that of the unclipped one.
        """
        drawn = self.mean + self.std * noise
        if self.squashed:
            std = self.std.expand_as(self.mean)
            return torch.tanh(drawn), squashed_gaussian_log_prob(self.mean, std, drawn)
        return drawn.clamp(-1, 1), _normal_log_prob(noise, self.std)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density `[M, B]` of actions `[M, B, A]` that came from elsewhere."""
        if self.squashed:
            pre_tanh = torch.atanh(actions.clamp(-EDGE, EDGE))
            return squashed_gaussian_log_prob(self.mean, self.std, pre_tanh)
        return _normal_log_prob((actions - self.mean) / self.std, self.std)

    def kl(self, reference: Policy) -> Tensor:
        """KL(self || reference) in nats, `[M, B]`, exactly.

        For a deterministic policy with exploration noise: of the noisy policies.

        Raises:
            ValueError: one is squashed and the other is not.
        """
        if self.squashed != reference.squashed:
            raise ValueError("a squashed policy has no KL to one that is not squashed")
        divergence = squashed_gaussian_kl if self.squashed else gaussian_kl
        std = self.std.expand_as(self.mean)
        return divergence(self.mean, std, reference.mean, reference.std.expand_as(self.mean))


class Actor(nn.Module):
    """The policies of M members.

    `deterministic`: tanh of the last layer, with exploration noise of `spread`. `gaussian`: a
    squashed Gaussian whose log standard deviation is bounded smoothly to `LOG_STD`.
    """

    spread: Tensor

    def __init__(
        self,
        members: int,
        observation: int,
        action: int,
        hidden: Sequence[int],
        *,
        kind: PolicyKind,
        norm: bool = False,
        spread: float = 0.1,
    ) -> None:
        """Build the trunk and the head."""
        super().__init__()
        self.kind = kind
        self.trunk = MLP(members, observation, hidden, norm=norm)
        outputs = 2 * action if kind == "gaussian" else action
        self.head = Dense(members, hidden[-1], outputs)
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, observations: Tensor) -> Policy:
        """Policies at `[M, B, do]`."""
        out = self.head(self.trunk(observations))
        if self.kind == "deterministic":
            return Policy(torch.tanh(out), self.spread, squashed=False)
        mean, raw = out.chunk(2, dim=-1)
        low, high = LOG_STD
        log_std = low + 0.5 * (high - low) * (torch.tanh(raw) + 1)
        return Policy(mean, log_std.exp(), squashed=True)


class Critic(nn.Module):
    """K action values for each of M members."""

    def __init__(
        self, members: int, k: int, inputs: int, hidden: Sequence[int], *, norm: bool = False
    ) -> None:
        """Build M * K networks, a member's K side by side."""
        super().__init__()
        self.k = k
        self.trunk = MLP(members * k, inputs, hidden, norm=norm)
        self.head = Dense(members * k, hidden[-1], 1)

    def forward(self, observations: Tensor, actions: Tensor, *, frozen: bool = False) -> Tensor:
        """Values `[M, K, B]` at observations `[M, B, do]` and actions `[M, B, A]`."""
        x = torch.cat([observations, actions], dim=-1)
        return self.of(x, frozen=frozen)

    def first(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Values `[M, 1, B]` of each member's first critic alone."""
        x = torch.cat([observations, actions], dim=-1)
        return self.head(self.trunk(x, self.k), self.k).unsqueeze(1).squeeze(-1)

    def of(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Values `[M, K, B]` at inputs `[M, B, d]`.

        `frozen` says that only the inputs want a gradient.
        """
        members, rows, width = x.shape
        if self.k > 1:
            shape = (members, self.k, rows, width)
            x = x.unsqueeze(1).expand(shape).reshape(members * self.k, rows, width)
        if outgrown(rows, self.head.weight.shape[1], self.k, x.device):
            hidden = (cast("Hidden", h) for h in self.trunk.dense)
            layers = [Layer(h.weight, h.bias, h.gain, h.offset) for h in hidden]
            layers.append(Layer(self.head.weight, self.head.bias))
            layers = [layer.detached() for layer in layers] if frozen else layers
            return relu_stack(x, layers).view(members, self.k, rows)
        return self.head(self.trunk(x)).view(members, self.k, rows)


class Value(nn.Module):
    """A state value for each of M members."""

    def __init__(
        self, members: int, observation: int, hidden: Sequence[int], *, norm: bool = False
    ) -> None:
        """Build M networks."""
        super().__init__()
        self.trunk = MLP(members, observation, hidden, norm=norm)
        self.head = Dense(members, hidden[-1], 1)

    def forward(self, observations: Tensor) -> Tensor:
        """Values `[M, B]` at observations `[M, B, do]`."""
        return self.head(self.trunk(observations)).squeeze(-1)


class Scalar(nn.Module):
    """One learnt positive number a member, such as SAC's temperature, kept as its logarithm."""

    def __init__(self, members: int, initial: float = 1.0) -> None:
        """Start every member at `initial`."""
        super().__init__()
        self.initial = initial
        self.log = nn.Parameter(torch.full((members, 1), math.log(initial)))

    def reset_parameters(self) -> None:
        """Start again."""
        nn.init.constant_(self.log, math.log(self.initial))

    def forward(self) -> Tensor:
        """The numbers, `[M, 1]`."""
        return self.log.exp()


def _normal_log_prob(standard: Tensor, std: Tensor) -> Tensor:
    """Log-density of mean + std * standard, summed over the action's dimensions."""
    constant = 0.5 * math.log(2 * math.pi)
    return (-0.5 * standard.square() - torch.log(std) - constant).sum(-1)


def _draw_uniformly_(weight: Tensor, bias: Tensor) -> None:
    bound = 1 / math.sqrt(weight.shape[1])
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


def _affine(x: Tensor, weight: Tensor, bias: Tensor, every: int) -> Tensor:
    if every > 1:
        weight, bias = weight[::every], bias[::every]
    if weight.shape[0] == weight.shape[2] == 1:
        # A single product with a single output goes through another routine, which rounds
        # otherwise: a lone run would differ from the same run among others.
        twice = (t.expand(2, -1, -1) for t in (bias, x, weight))
        return torch.baddbmm(*twice)[:1]
    return torch.baddbmm(bias, x, weight)
