"""TorchRL's losses, replay buffer and target updates, put together as its examples do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cell as table
import tensordict
import torch
import torchrl
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, ProbabilisticActor, TanhModule, TanhNormal, ValueOperator
from torchrl.objectives import (
    BCLoss,
    CQLLoss,
    IQLLoss,
    SACLoss,
    SoftUpdate,
    TD3BCLoss,
)

LEARNING_RATE = 3e-4
SPEC = Bounded(-1, 1, (table.ACTION,))


def deterministic(cell: table.Cell) -> Any:
    network = MLP(table.OBSERVATION, table.ACTION, num_cells=cell.hidden, activation_class=nn.ReLU)
    mean = TensorDictModule(network, in_keys=["observation"], out_keys=["param"])
    squash = TanhModule(in_keys=["param"], out_keys=["action"], spec=SPEC)
    return tensordict.nn.TensorDictSequential(mean, squash)


def gaussian(cell: table.Cell) -> Any:
    network = nn.Sequential(
        MLP(table.OBSERVATION, 2 * table.ACTION, num_cells=cell.hidden, activation_class=nn.ReLU),
        NormalParamExtractor(scale_lb=1e-4),
    )
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=SPEC,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1, "high": 1, "tanh_loc": False},
        return_log_prob=True,
    )


def action_value(cell: table.Cell) -> ValueOperator:
    size = table.OBSERVATION + table.ACTION
    network = MLP(size, 1, num_cells=cell.hidden, activation_class=nn.ReLU)
    return ValueOperator(network, in_keys=["observation", "action"])


def state_value(cell: table.Cell) -> ValueOperator:
    network = MLP(table.OBSERVATION, 1, num_cells=cell.hidden, activation_class=nn.ReLU)
    return ValueOperator(network, in_keys=["observation"])


def objective(cell: table.Cell) -> Any:
    """Return the loss; the critic's is squared error, as everywhere in the table."""
    squared = {"loss_function": "l2"}
    if cell.algorithm == "bc":
        return BCLoss(deterministic(cell), loss_function="l2")
    critic = action_value(cell)
    if cell.algorithm == "td3_bc":
        loss = TD3BCLoss(deterministic(cell), critic, action_spec=SPEC, **squared)
    elif cell.algorithm == "iql":
        loss = IQLLoss(gaussian(cell), critic, state_value(cell), expectile=0.7, **squared)
    elif cell.algorithm == "cql":
        settings = {"num_random": table.SAMPLED_ACTIONS, "with_lagrange": False}
        loss = CQLLoss(gaussian(cell), critic, action_spec=SPEC, **settings, **squared)
    else:
        loss = SACLoss(
            gaussian(cell), critic, num_qvalue_nets=cell.critics, action_spec=SPEC, **squared
        )
    loss.make_value_estimator(gamma=table.DISCOUNT)
    return loss


def filled(cell: table.Cell) -> TensorDictReplayBuffer:
    rows = {name: torch.from_numpy(values) for name, values in table.rows().items()}
    ended = rows["terminals"].unsqueeze(-1)
    after = {"observation": rows["next_observations"], "reward": rows["rewards"].unsqueeze(-1)}
    ends = {"done": ended | rows["timeouts"].unsqueeze(-1), "terminated": ended}
    data = {"observation": rows["observations"], "action": rows["actions"]}
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(table.ROWS), batch_size=cell.batch)
    buffer.extend(TensorDict({**data, "next": {**after, **ends}}, batch_size=[table.ROWS]))
    return buffer


def gradient_steps(cell: table.Cell) -> Callable[[], None]:
    loss, buffer = objective(cell), filled(cell)
    target = None if cell.algorithm == "bc" else SoftUpdate(loss, tau=0.005)
    of_actor = loss.actor_network_params.values(include_nested=True, leaves_only=True)
    actor = torch.optim.Adam(list(of_actor), lr=LEARNING_RATE)
    chosen = {id(p) for p in of_actor}
    rest = [p for p in loss.parameters() if p.requires_grad and id(p) not in chosen]
    others = torch.optim.Adam(rest, lr=LEARNING_RATE) if rest else None
    every = 2 if cell.algorithm == "td3_bc" else 1
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        batch = buffer.sample()
        if every == 1:
            found = loss(batch)
            sum(v for k, v in found.items() if k.startswith("loss")).backward()
        else:  # TD3 trains its policy every second step
            loss.qvalue_loss(batch)[0].backward()
            if count % every == 0:
                loss.actor_loss(batch)[0].backward()
        if others is not None:
            others.step()
            others.zero_grad()
        if count % every == 0:
            actor.step()
            actor.zero_grad()
            if target is not None:
                target.step()

    return step


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about = {"torchrl": torchrl.__version__, "torch": torch.__version__}
    table.serve(table.repeat(gradient_steps(table.from_command_line())), about=about)


if __name__ == "__main__":
    main()
