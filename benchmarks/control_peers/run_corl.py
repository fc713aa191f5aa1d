"""CORL's single files as they are, their networks rebuilt at the sizes of the table.

CORL is not a package. Each file reads d4rl, gym, pyrallis and wandb at import; none of them takes
part in a gradient step, so empty stand-ins do. Its widths are written into the code, and its CQL,
Cal-QL and SAC-N networks have three hidden layers: their `Sequential`s are replaced by ones of the
same layer class with the sizes asked for, so that all libraries multiply the same matrices.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cell as table
import numpy as np
import torch
from torch import nn

FILES = {
    "bc": "offline/any_percent_bc",
    "td3_bc": "offline/td3_bc",
    "iql": "offline/iql",
    "cql": "offline/cql",
    "cal_ql": "finetune/cal_ql",
    "sac2": "offline/sac_n",
    "sac10": "offline/sac_n",
}
LEARNING_RATE = 3e-4


def stand_ins() -> None:
    """Put empty modules where CORL imports what a gradient step does not use."""
    for name in ("d4rl", "gym", "pyrallis", "wandb"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["gym"].Env = object  # type: ignore[attr-defined]
    sys.modules["pyrallis"].wrap = lambda: lambda function: function  # type: ignore[attr-defined]


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec, path
    assert spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def resized(
    network: nn.Sequential, hidden: list[int], linear: Callable[[int, int], nn.Module] = nn.Linear
) -> nn.Sequential:
    """Return the sequence with these hidden layers; what follows the last linear layer stays."""
    layers = [m for m in network if hasattr(m, "in_features")]
    last = max(i for i, m in enumerate(network) if hasattr(m, "in_features"))
    headless = len(network) > last + 1 and isinstance(network[last + 1], nn.ReLU)
    sizes = [layers[0].in_features, *hidden] + ([] if headless else [layers[-1].out_features])
    made: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        made += [linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(
        *(made if headless else made[:-1]), *(() if headless else network[last + 1 :])
    )


def adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)


def bc(module: Any, cell: table.Cell) -> Any:
    actor = module.Actor(table.OBSERVATION, table.ACTION, 1.0)
    actor.net = resized(actor.net, cell.hidden)
    return module.BC(1.0, actor, adam(actor))


def td3_bc(module: Any, cell: table.Cell) -> Any:
    actor = module.Actor(table.OBSERVATION, table.ACTION, 1.0)
    actor.net = resized(actor.net, cell.hidden)
    critics = [module.Critic(table.OBSERVATION, table.ACTION) for _ in range(2)]
    for critic in critics:
        critic.net = resized(critic.net, cell.hidden)
    pairs = [x for critic in critics for x in (critic, adam(critic))]
    return module.TD3_BC(1.0, actor, adam(actor), *pairs)


def iql(module: Any, cell: table.Cell) -> Any:
    sizes = {"hidden_dim": cell.width, "n_hidden": table.HIDDEN_LAYERS}
    actor = module.GaussianPolicy(table.OBSERVATION, table.ACTION, 1.0, **sizes)
    critic = module.TwinQ(table.OBSERVATION, table.ACTION, **sizes)
    value = module.ValueFunction(table.OBSERVATION, **sizes)
    parts = [x for part in (actor, critic, value) for x in (part, adam(part))]
    return module.ImplicitQLearning(1.0, *parts)


def cql(module: Any, cell: table.Cell) -> Any:
    actor = module.TanhGaussianPolicy(table.OBSERVATION, table.ACTION, 1.0)
    actor.base_network = resized(actor.base_network, cell.hidden)
    critics = [module.FullyConnectedQFunction(table.OBSERVATION, table.ACTION) for _ in range(2)]
    for critic in critics:
        critic.network = resized(critic.network, cell.hidden)
    learner = module.CalQL if cell.algorithm == "cal_ql" else module.ContinuousCQL
    pairs = [x for critic in critics for x in (critic, adam(critic))]
    return learner(
        *pairs,
        actor,
        adam(actor),
        target_entropy=-float(table.ACTION),
        cql_n_actions=table.SAMPLED_ACTIONS,
        bc_steps=0,
    )


def sac(module: Any, cell: table.Cell) -> Any:
    actor = module.Actor(table.OBSERVATION, table.ACTION, cell.width)
    actor.trunk = resized(actor.trunk, cell.hidden)
    critic = module.VectorizedCritic(table.OBSERVATION, table.ACTION, cell.width, cell.critics)
    critic.critic = resized(
        critic.critic, cell.hidden, lambda i, o: module.VectorizedLinear(i, o, cell.critics)
    )
    learner = module.SACN(actor, adam(actor), critic, adam(critic))
    learner.train = learner.update
    return learner


def gradient_steps(cell: table.Cell) -> Callable[[], object]:
    assert cell.source, "CORL needs --source, the folder of its checkout"
    module = imported(cell.source / "algorithms" / f"{FILES[cell.algorithm]}.py")
    build = {"bc": bc, "td3_bc": td3_bc, "iql": iql, "sac2": sac, "sac10": sac}.get(
        cell.algorithm, cql
    )
    learner = build(module, cell)
    storage = module.ReplayBuffer(table.OBSERVATION, table.ACTION, table.ROWS)
    storage.load_d4rl_dataset(table.rows())
    return lambda: learner.train(storage.sample(cell.batch))


class OldApi:
    """Gym's interface of CORL's time over a gymnasium environment."""

    def __init__(self, env_id: str) -> None:
        import gymnasium

        self.env, self.steps = gymnasium.make(env_id), 0

    def seed(self, seed: int) -> None:
        """Reset, as the seed is given there now."""
        self.env.reset(seed=seed)

    def reset(self) -> np.ndarray:
        """Return the first observation alone."""
        return self.env.reset()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict]:
        """Return one flag for both ends of an episode."""
        state, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return state, float(reward), terminated or truncated, info


def environment_steps(cell: table.Cell) -> Callable[[int], int]:
    """Return CORL's evaluation loop with TD3+BC's actor."""
    assert cell.source, "CORL needs --source, the folder of its checkout"
    module = imported(cell.source / "algorithms" / "offline" / "td3_bc.py")
    env = OldApi(cell.algorithm)
    spaces = (env.env.observation_space, env.env.action_space)
    observation, action = (space.shape[0] for space in spaces if space.shape)
    actor = module.Actor(observation, action, 1.0)
    actor.net = resized(actor.net, cell.hidden)

    def run(count: int) -> int:
        before = env.steps
        while env.steps - before < count:
            module.eval_actor(env, actor, "cpu", 1, 0)
        return env.steps - before

    return run


def main() -> None:
    torch.set_num_threads(1)
    stand_ins()
    cell = table.from_command_line()
    about = {"torch": torch.__version__}
    if cell.algorithm in FILES:
        table.serve(table.repeat(gradient_steps(cell)), about=about)
    else:
        table.serve(environment_steps(cell), about=about, warm_up=1)


if __name__ == "__main__":
    main()
