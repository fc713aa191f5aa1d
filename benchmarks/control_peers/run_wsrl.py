"""WSRL's JAX agents, compiled as one loop over many steps that draws its own batches.

Its `update` called step by step compiles again and again under a current flax, so the loop is
compiled around it: the fastest way to run these agents that was found. Its observation, action and
network code is used as it is; gym and wandb, which it imports elsewhere, are not needed.
"""

from __future__ import annotations

import os

# One thread, as everywhere in the table; XLA reads this when it is imported.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_PLATFORMS"] = "cpu"

import sys
from collections.abc import Callable
from typing import Any

import cell as table
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

WIDTHS = ("critic_network_kwargs", "policy_network_kwargs")
STEPS = {"bc": 100, "cql": 5, "cal_ql": 5, "sac10": 10}
"""Steps of one compiled loop, a fraction of a second; 20 where not given."""


def built(cell: table.Cell, rows: dict[str, Any]) -> Any:
    """Return the agent with the settings of its own recipes and the sizes of the table."""
    from experiments.configs import cql_config, iql_config, sac_config
    from wsrl.agents import agents

    if cell.algorithm == "bc":
        config: dict[str, Any] = {"network_kwargs": {"hidden_dims": cell.hidden}}
    else:
        source = {"iql": iql_config, "cql": cql_config, "cal_ql": cql_config}
        config = source.get(cell.algorithm, sac_config).get_config()
        for name in WIDTHS:
            config[name]["hidden_dims"] = cell.hidden
    if cell.algorithm.startswith("sac"):
        config["critic_ensemble_size"] = cell.critics
    if cell.algorithm in {"cql", "cal_ql"}:
        config["cql_max_target_backup"] = False
        config["cql_n_actions"] = table.SAMPLED_ACTIONS
    agent = agents[cell.algorithm.rstrip("0123456789").replace("_", "")]
    examples = (rows["observations"][:1], rows["actions"][:1])
    encoder = {"encoder_def": Identity()}
    return agent.create(jax.random.PRNGKey(0), *examples, **encoder, **config)


class Identity(nn.Module):
    """What encodes an observation that needs no encoding."""

    @nn.compact
    def __call__(self, observation: Any, **_: Any) -> Any:
        """Return the observation."""
        return observation


def gradient_steps(cell: table.Cell) -> Callable[[int], int]:
    rows = {k: jnp.asarray(v, dtype=jnp.float32) for k, v in table.rows().items()}
    rows["masks"] = 1 - rows["terminals"]
    agent = built(cell, rows)
    length = STEPS.get(cell.algorithm, 20)

    def one(state: Any, key: Any) -> tuple[Any, None]:
        index = jax.random.randint(key, (cell.batch,), 0, table.ROWS)
        batch = {name: column[index] for name, column in rows.items()}
        return agent.replace(state=state).update(batch)[0].state, None

    @jax.jit
    def many(state: Any, key: Any) -> Any:
        return jax.lax.scan(one, state, jax.random.split(key, length))[0]

    state = jax.tree.map(jnp.asarray, agent.state)
    calls = 0

    def run(count: int) -> int:
        nonlocal state, calls
        loops = -(-count // length)
        for _ in range(loops):
            calls += 1
            state = many(state, jax.random.PRNGKey(calls))
        jax.block_until_ready(state)
        return loops * length

    run(1)  # compile
    return run


def main() -> None:
    cell = table.from_command_line()
    assert cell.source, "WSRL needs --source, the folder of its checkout"
    sys.path.insert(0, str(cell.source))
    jax.tree_map = jax.tree.map
    # Compiling takes a minute; what was compiled is kept beside the checkout.
    jax.config.update("jax_compilation_cache_dir", str(cell.source.parent / "jax-cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    about = {"jax": jax.__version__, "flax": flax.__version__}
    table.serve(gradient_steps(cell), about=about)


if __name__ == "__main__":
    main()
