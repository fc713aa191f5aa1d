"""What does a saved policy return?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from control.acting import act_of
from control.agent import load
from control.data import require_fit
from control.experience import seeds_of
from control.rollout import Streams, play, scores
from control.settings import ControlRecipe, EnvSettings
from posttrain import progress
from posttrain import recipe as recipes
from posttrain.record import Record
from posttrain.regime.scores import write_scores
from posttrain.regime.statistics import clustered_mean


def evaluate(
    folder: Path,
    *,
    env: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    noise: bool = False,
    pi0: bool = False,
    out: Path | None = None,
) -> str:
    """Play a policy and sum up its returns in a sentence.

    Args:
        folder: a run's, whose fine-tuned policy (or else pi_0) plays, or a saved agent's.
        env: an id, or settings as YAML; None takes the run's.
        episodes: how many.
        seed: decides their starts.
        noise: sample the actions instead of taking the mode.
        pi0: of a run, play pi_0.
        out: file for the scores.

    Raises:
        ValueError: nothing to play, or nowhere to play it.
    """
    agent_folder = find_agent(folder, pi0=pi0)
    settings = environment_of(folder, env)
    agent = load(agent_folder)
    require_fit(str(agent_folder), (agent.observation, agent.action), settings)
    starts = [s % 2**31 for s in seeds_of(seed, "evaluation", episodes)]
    act = act_of(
        agent, np.zeros(episodes, dtype=np.int64), noise=Streams(starts) if noise else None
    )
    with progress.bar(f"{agent_folder.name} plays", episodes) as bar:
        found = play(act, settings, starts, tick=bar.update)
    table = scores(found, settings, prefix="start")
    if out is not None:
        write_scores(table, out)
    bounds = (0.0, 1.0) if settings.score == "success" else None
    mean = clustered_mean(table.returns, bounds=bounds)
    what = "rate of success" if settings.score == "success" else "return"
    return (
        f"J = {mean.mean:.4g}, 95 % interval {mean.low:.4g} to {mean.high:.4g}: mean {what} of "
        f"{episodes} episodes in {settings.id}"
    )


def find_agent(folder: Path, *, pi0: bool) -> Path:
    """The folder of the agent that is meant.

    Raises:
        ValueError: there is none.
    """
    if (folder / "agent.json").exists():
        return folder
    for name in ("pi0",) if pi0 else ("rl", "pi0"):
        if (folder / name / "agent.json").exists():
            return folder / name
    raise ValueError(f"{folder}: wanted a run's folder or a saved agent's, found no agent.json")


def environment_of(folder: Path, env: str | None) -> EnvSettings:
    """The environment that is meant.

    Raises:
        ValueError: nothing says it, or its settings cannot be read.
    """
    if env is not None:
        text = env if env.lstrip().startswith("{") else f"id: {env}"
        found: EnvSettings = recipes.load(EnvSettings, text)
        return found
    stored = Record(folder).recipe_file
    if not stored.exists():
        raise ValueError(f"{folder} is no run's folder: say which environment with --env")
    settings: ControlRecipe = recipes.load(ControlRecipe, stored)
    return settings.env
