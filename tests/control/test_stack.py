"""Networks taken a piece at a time, against autograd's own chain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from control import stack
from control.networks import Critic
from control.stack import Layer, outgrown, relu_stack

NETWORKS, ROWS = 3, 7


def layers_of(*, norm: bool) -> list[Layer]:
    draw = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.double, generator=draw).requires_grad_()

    made = []
    for i, (inputs, outputs) in enumerate([(4, 6), (6, 5), (5, 2)]):
        shape = (NETWORKS, 1, outputs)
        extra = (weight(*shape), weight(*shape)) if norm and i < 2 else ()
        made.append(Layer(weight(NETWORKS, inputs, outputs), weight(*shape), *extra))
    return made


def naive(x: Tensor, layers: list[Layer]) -> Tensor:
    """Each network and row by itself."""
    found = []
    for n in range(NETWORKS):
        for row in x[n]:
            h = row
            for i, layer in enumerate(layers):
                h = h @ layer.weight[n] + layer.bias[n, 0]
                if layer.gain is not None and layer.offset is not None:
                    h = F.layer_norm(h, h.shape) * layer.gain[n, 0] + layer.offset[n, 0]
                h = F.relu(h) if i < len(layers) - 1 else h
            found.append(h)
    return torch.stack(found).view(NETWORKS, ROWS, -1)


def rows() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(NETWORKS, ROWS, 4, dtype=torch.double, generator=draw)
    return x.requires_grad_()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("piece", [1, 12, 36, 10**6])  # 1, 2, 6 and all rows at once
def test_values_and_gradients_are_those_of_the_plain_chain(
    monkeypatch: pytest.MonkeyPatch, piece: int, norm: bool
) -> None:
    monkeypatch.setattr(stack, "PIECE", piece)
    x, layers = rows(), layers_of(norm=norm)
    inputs = [x, *(t for layer in layers for t in layer if t is not None)]
    weights = torch.arange(1.0, 1 + NETWORKS * ROWS * 2, dtype=torch.double).view(NETWORKS, ROWS, 2)
    wanted = torch.autograd.grad((naive(x, layers) * weights).sum(), inputs)
    found = torch.autograd.grad((relu_stack(x, layers) * weights).sum(), inputs)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(relu_stack(x, layers), naive(x, layers))


def test_a_frozen_stack_gives_its_inputs_their_gradient_and_its_weights_none() -> None:
    x, layers = rows(), layers_of(norm=True)
    wanted = torch.autograd.grad(naive(x, layers).sum(), x)[0]
    relu_stack(x, [layer.detached() for layer in layers]).sum().backward()
    torch.testing.assert_close(x.grad, wanted)
    assert all(t.grad is None for layer in layers for t in layer if t is not None)


@pytest.mark.parametrize("norm", [False, True])
def test_a_critic_that_outgrew_the_cache_says_what_it_would_have_said(
    monkeypatch: pytest.MonkeyPatch, norm: bool
) -> None:
    critic = Critic(2, 3, 5, (8, 8), norm=norm).double()
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(3)
    observations = torch.randn(2, 4, 3, generator=draw).double()
    actions = torch.randn(2, 4, 2, generator=draw).double().requires_grad_()
    assert not outgrown(4, 8, 3, observations.device)
    plain = critic(observations, actions)
    wanted = torch.autograd.grad(plain.square().sum(), [actions, *critic.parameters()])
    monkeypatch.setattr("control.networks.outgrown", lambda *_: True)
    pieces = critic(observations, actions)
    found = torch.autograd.grad(pieces.square().sum(), [actions, *critic.parameters()])
    torch.testing.assert_close(pieces, plain)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_whether_pieces_pay_is_asked_of_a_member_and_not_of_how_many_there_are() -> None:
    """Otherwise a run would round differently alone and among others."""
    cpu = torch.device("cpu")
    assert outgrown(256, 256, 10, cpu)
    assert outgrown(256 * 31, 256, 2, cpu)
    assert not outgrown(256, 256, 2, cpu)
    assert not outgrown(64, 64, 10, cpu)
    assert not outgrown(256, 256, 10, torch.device("cuda"))
