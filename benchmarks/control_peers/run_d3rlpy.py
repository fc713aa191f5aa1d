"""d3rlpy's algorithms at the sizes of the table, with its own replay buffer."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import cell as table
import d3rlpy
import numpy as np
import torch
from d3rlpy.models.encoders import VectorEncoderFactory

ALGORITHMS = {"bc", "td3_bc", "iql", "cql", "cal_ql", "sac2", "sac10"}


def built(cell: table.Cell) -> d3rlpy.algos.QLearningAlgoBase:
    """Return the algorithm; CQL's and Cal-QL's weight is fixed, as the other libraries have it."""
    encoder = VectorEncoderFactory(hidden_units=cell.hidden)
    both = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    conservative = {"n_action_samples": table.SAMPLED_ACTIONS, "alpha_learning_rate": 0.0}
    algos, batch = d3rlpy.algos, {"batch_size": cell.batch}
    config = {
        "bc": lambda: algos.BCConfig(encoder_factory=encoder, **batch),
        "td3_bc": lambda: algos.TD3PlusBCConfig(**both, **batch),
        "iql": lambda: algos.IQLConfig(value_encoder_factory=encoder, **both, **batch),
        "cql": lambda: algos.CQLConfig(**conservative, **both, **batch),
        "cal_ql": lambda: algos.CalQLConfig(**conservative, max_q_backup=False, **both, **batch),
        "sac2": lambda: algos.SACConfig(n_critics=2, **both, **batch),
        "sac10": lambda: algos.SACConfig(n_critics=10, **both, **batch),
    }[cell.algorithm]()
    return config.create(device=cell.device)


def gradient_steps(cell: table.Cell) -> Callable[[], object]:
    rows = table.rows()
    data = d3rlpy.dataset.MDPDataset(
        rows["observations"], rows["actions"], rows["rewards"], rows["terminals"], rows["timeouts"]
    )
    learner = built(cell)
    learner.build_with_dataset(data)
    return lambda: learner.update(data.sample_transition_batch(cell.batch))


def environment_steps(cell: table.Cell) -> Callable[[int], int]:
    """Return d3rlpy's own evaluation of TD3+BC."""
    import gymnasium
    from d3rlpy.metrics.utility import evaluate_qlearning_with_environment

    env = gymnasium.make(cell.algorithm)
    shapes = [space.shape for space in (env.observation_space, env.action_space)]
    observations, actions = (np.random.default_rng(0).uniform(-1, 1, (8, *s)) for s in shapes if s)
    data = d3rlpy.dataset.MDPDataset(
        observations.astype(np.float32), actions.astype(np.float32), np.zeros(8), np.arange(8) == 7
    )
    encoder = VectorEncoderFactory(hidden_units=cell.hidden)
    learner = d3rlpy.algos.TD3PlusBCConfig(actor_encoder_factory=encoder).create()
    learner.build_with_dataset(data)
    horizon = env.spec.max_episode_steps if env.spec else None
    assert horizon, f"{cell.algorithm} has no length of episode"

    def run(count: int) -> int:
        episodes = -(-count // horizon)
        evaluate_qlearning_with_environment(learner, env, n_trials=episodes)
        return episodes * horizon

    return run


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cell = table.from_command_line()
    about = {"d3rlpy": d3rlpy.__version__, "torch": torch.__version__}
    if cell.algorithm in ALGORITHMS:
        table.serve(table.repeat(gradient_steps(cell)), about=about)
    else:
        table.serve(environment_steps(cell), about=about, warm_up=1)


if __name__ == "__main__":
    main()
