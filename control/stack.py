"""Many or long ReLU networks, forward and backward by hand, a piece at a time.

Autograd's chain writes a layer of all networks and rows before it begins the next. With ten
critics, or thirty actions a state, what it wrote has left the core's own cache when it is read
again, and the products wait for memory. Here a piece, some rows of one network, goes through all
layers at once; the gradient of a weight is summed over pieces inside the product; and what ReLU
cuts is cut in place. Every network is taken by itself, so that a lone run and the same run among
others take the same steps and round alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

OUTGROWN = 65_536
"""Numbers in a hidden layer of one network from which on a piece of it is worth a call."""
PIECE = 4 * OUTGROWN
"""Numbers in a hidden layer of a piece, a megabyte: half of what a core of today keeps near."""


class Layer(NamedTuple):
    """Affine maps of n networks, and what normalises their outputs, if anything does."""

    weight: Tensor
    """`[n, i, o]`."""
    bias: Tensor
    """`[n, 1, o]`."""
    gain: Tensor | None = None
    """`[n, 1, o]`."""
    offset: Tensor | None = None

    def detached(self) -> Layer:
        """The same numbers, asking for no gradient."""
        return Layer(*(None if t is None else t.detach() for t in self))  # type: ignore[arg-type]


def outgrown(rows: int, width: int, networks: int, device: torch.device) -> bool:
    """Whether taking pieces pays: on a CPU, for networks too large to stay near together."""
    each = rows * width
    return device.type == "cpu" and each >= OUTGROWN and each * networks >= PIECE


def relu_stack(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Pass rows through n networks: affine maps, normalisation where given, ReLU between them.

    Args:
        x: `[n, B, i]`.
        layers: the last one's output is neither normalised nor cut.

    Returns:
        `[n, B, o]`.
    """
    flat = [t for layer in layers for t in layer]
    if torch.is_grad_enabled():
        found: Tensor = _Stack.apply(x, *flat)
        return found
    return _forward(x, flat, None)


class _Kept(NamedTuple):
    """What the backward pass needs of a hidden layer of one piece."""

    out: Tensor
    before_norm: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None


def _forward(x: Tensor, flat: Sequence[Tensor | None], keep: list[list[_Kept]] | None) -> Tensor:
    weight, bias = flat[-4], flat[-3]
    assert weight is not None and bias is not None  # noqa: PT018, S101 - every layer has both
    out = x.new_empty(*x.shape[:2], weight.shape[-1])
    nets = _by_net(flat, len(x))
    for net, rows in _pieces(x, flat):
        h, hidden = x[net, rows], []
        for w, b, gain, offset in nets[net][:-1]:
            h = torch.addmm(b, h, w)
            kept = _Kept(h)
            if gain is not None:
                y, mean, scale = torch.native_layer_norm(h, gain.shape, gain, offset, 1e-5)
                kept = _Kept(y, h, mean, scale)
            h = kept.out.relu_()
            hidden.append(kept)
        last = nets[net][-1]
        torch.addmm(last[1], h, last[0], out=out[net, rows])
        if keep is not None:
            keep.append(hidden)
    return out


def _by_net(flat: Sequence[Tensor | None], n: int) -> list[list[tuple[Any, ...]]]:
    """Every network's layers: weight `[i, o]`, bias, gain and offset `[o]`."""
    each = [
        [None] * n if t is None else (t if i % 4 == 0 else t.squeeze(1)).unbind(0)
        for i, t in enumerate(flat)
    ]
    layers = [zip(*each[i : i + 4], strict=True) for i in range(0, len(each), 4)]
    return [list(net) for net in zip(*layers, strict=True)]


def _pieces(x: Tensor, flat: Sequence[Tensor | None]) -> Iterator[tuple[int, slice]]:
    widest = max(t.shape[-1] for t in flat if t is not None)
    rows = max(1, PIECE // widest)
    for net in range(x.shape[0]):
        for start in range(0, x.shape[1], rows):
            yield net, slice(start, start + rows)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *flat: Tensor | None) -> Tensor:
        ctx.hidden = []
        ctx.save_for_backward(x, *flat)
        return _forward(x, flat, ctx.hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *flat = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1]
        into = [torch.empty_like(t) if wanted and t is not None else None for t in flat]
        back = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        nets, sums = _by_net(flat, len(x)), _by_net(into, len(x))
        for (net, rows), hidden in zip(_pieces(x, flat), ctx.hidden, strict=True):
            g = _backward(
                grads[0][net, rows],
                x[net, rows],
                hidden,
                nets[net],
                sums[net] if wanted else None,
                first=rows.start == 0,
            )
            if back is not None:
                torch.mm(g, nets[net][0][0].t(), out=back[net, rows])
        ctx.hidden = None
        return (back, *into)


def _backward(
    g: Tensor,
    x: Tensor,
    hidden: Sequence[_Kept],
    layers: Sequence[tuple[Any, ...]],
    sums: Sequence[tuple[Any, ...]] | None,
    *,
    first: bool,
) -> Tensor:
    """Add one piece's gradients to `sums`, which the `first` piece of a network begins.

    Returns:
        The gradient of what the first product gave, `[rows, o]`.
    """
    for i in range(len(layers) - 1, -1, -1):
        gain, offset = layers[i][2:]
        if gain is not None:
            kept, ask = hidden[i], [True, sums is not None, sums is not None]
            g, by_gain, by_offset = torch.ops.aten.native_layer_norm_backward(
                g, kept.before_norm, gain.shape, kept.mean, kept.scale, gain, offset, ask
            )
            if sums is not None:
                _add_(sums[i][2], by_gain, first=first)
                _add_(sums[i][3], by_offset, first=first)
        below = hidden[i - 1].out if i else x
        if sums is not None:
            if first:
                torch.mm(below.t(), g, out=sums[i][0])
            else:
                sums[i][0].addmm_(below.t(), g)
            _add_(sums[i][1], g.sum(0), first=first)
        if i:
            g = torch.mm(g, layers[i][0].t())
            torch.ops.aten.threshold_backward.grad_input(g, below, 0, grad_input=g)
    return g


def _add_(total: Tensor, part: Tensor, *, first: bool) -> None:
    if first:
        total.copy_(part)
    else:
        total.add_(part)
