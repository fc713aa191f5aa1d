"""What is measured while members fine-tune: J(pi_n), the distances to pi_0 and D, the critic.

None of it feeds back into training. The critic's calibration is a signal to look at, never the
classifier of regimes: by Q the paper's rule was right in half of its settings (section 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr

from control.acting import act_of, choice
from control.algorithms import gamma_of
from control.datasets.returns import discounted
from control.rollout import Episode, play, scores
from control.settings import ControlRecipe
from control.storage import Batch, Storage
from posttrain.regime.statistics import clustered_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from control.agent import Agent
    from control.datasets.dataset import Dataset
    from control.handover import FinetuneRun
    from control.learner import Metrics
    from control.proposal import Rival

PROBED = 512
"""States of pi_0's rollouts, and rows of D, on which distances are measured."""
NEGLIGIBLE = 0.05
"""Share of a return that may lie beyond a time-out, for a step to be compared with its value."""
ENVS = 8


@dataclass(slots=True)
class Gauges:
    """The instruments of a population, and their logs."""

    recipe: ControlRecipe
    runs: Sequence[FinetuneRun]
    reference: Agent
    dataset: Dataset
    probe: Batch
    """The same rows of D for all members."""
    visited: torch.Tensor
    """Normalised states that each member's pi_0 visits, `[M, n, do]`."""
    means: list[list[float]]
    """J of every evaluation of each member."""
    rival: Rival | None = None

    @classmethod
    def start(
        cls,
        recipe: ControlRecipe,
        runs: Sequence[FinetuneRun],
        dataset: Dataset,
        reference: Agent,
        storage: Storage,
        *,
        rollouts: Sequence[Dataset],
        rival: Rival | None = None,
    ) -> Gauges:
        """Choose the rows to probe."""
        rows = np.random.default_rng(0).integers(
            storage.data_size, size=min(PROBED, storage.data_size)
        )
        probe = storage.gather(np.tile(rows, (len(runs), 1)))
        states = np.stack([_some(played.observations) for played in rollouts])
        visited = reference.normalize(torch.from_numpy(states).to(reference.center.device))
        return cls(recipe, runs, reference, dataset, probe, visited, [[] for _ in runs], rival)

    def evaluate(self, agent: Agent, views: Sequence[Agent], step: int) -> None:
        """Measure J(pi_n) of every member without noise, always on the same starts."""
        episodes = self._episodes(agent)
        for m, (run, mine) in enumerate(zip(self.runs, episodes, strict=True)):
            table = scores(mine, self.recipe.env, prefix="start")
            units = [str(u) for u in table.unit] if table.unit is not None else []
            values = [float(x) for x in table.returns]
            run.curve.append({"step": step, "unit": units, "return": values})
            self.means[m].append(float(np.mean(values)))
            estimate = clustered_mean(
                values, units, level=1 - run.alpha, bounds=run.scale or (-math.inf, math.inf)
            )
            row = {
                "step": step,
                "regime/J": estimate.mean,
                "regime/J_low": estimate.low,
                "regime/J_high": estimate.high,
                "regime/prior": run.prior,
                "regime/stability": min(self.means[m]) - run.prior,
                "regime/plasticity": max(self.means[m]) - min(self.means[m]),
                **self._critic(views[m], mine),
            }
            run.log.append(row, nan_as_null=True)

    def _episodes(self, agent: Agent) -> list[list[Episode]]:
        count = self.recipe.finetune.eval_episodes if self.recipe.finetune else 0
        starts = [run.eval_seeds[:count] for run in self.runs]
        members = np.repeat(np.arange(len(self.runs)), [len(s) for s in starts])
        found = play(
            act_of(agent, members, choose=choice(self.rival)),
            self.recipe.env,
            [seed for some in starts for seed in some],
            envs=min(ENVS * len(self.runs), 64),
        )
        return [[e for e, m in zip(found, members, strict=True) if m == i]
                for i in range(len(self.runs))]  # fmt: skip

    @torch.no_grad()
    def _critic(self, view: Agent, episodes: Sequence[Episode]) -> dict[str, float]:
        """Compare the critic with what the episodes paid, in scaled, discounted rewards."""
        if view.critic is None or self.recipe.finetune is None:
            return {}
        data, gamma = self.recipe.dataset, gamma_of(self.recipe.finetune.algorithm)
        states, actions, paid = [], [], []
        for e in episodes:
            scaled = e.rewards * data.reward_scale + data.reward_bias
            last = np.arange(len(e)) == len(e) - 1
            found = discounted(scaled, last & e.terminated, last, np.zeros(1), gamma)
            tail = 0 if e.terminated or gamma == 1 else math.ceil(math.log(NEGLIGIBLE, gamma))
            keep = len(e) - tail
            if keep > 0:
                states.append(e.observations[:keep])
                actions.append(e.actions[:keep])
                paid.append(found[:keep])
        if not states:
            return {}
        inputs = view.normalize(torch.from_numpy(np.concatenate(states)).to(view.center.device))
        given = torch.from_numpy(np.concatenate(actions)).to(inputs)
        q = view.critic(inputs.unsqueeze(0), given.unsqueeze(0)).amin(1)[0].cpu().numpy()
        g = np.concatenate(paid)
        constant = np.ptp(q) == 0 or np.ptp(g) == 0
        return {
            "q/mean": float(q.mean()),
            "q/monte_carlo": float(g.mean()),
            "q/bias": float(q.mean() - g.mean()),
            "q/rank_correlation": math.nan if constant else float(spearmanr(q, g).statistic),
        }

    @torch.no_grad()
    def log(
        self,
        agent: Agent,
        step: int,
        metrics: Metrics,
        strengths: Sequence[Mapping[str, float]],
        returns: Sequence[list[float]] = (),
    ) -> None:
        """Write one row a member: losses, strengths, distances to pi_0 and to D."""
        away = self.reference.actor(self.visited).kl(agent.actor(self.visited)).mean(-1)
        policy = agent.actor(self.probe.observations)
        nll = -policy.log_prob(self.probe.actions).mean(-1)
        for m, run in enumerate(self.runs):
            row: dict[str, Any] = {
                "step": step,
                "regime/kl_to_pi0": float(away[m]),
                "regime/nll_on_data": float(nll[m]),
                **strengths[m],
                **{name: float(value[m]) for name, value in metrics.items()},
            }
            if returns and returns[m]:
                row["reward"] = float(np.mean(returns[m]))
            run.log.append(row, nan_as_null=True)

    def restore(self, m: int) -> None:
        """Remember the evaluations that member m has had before it was killed."""
        self.means[m] = [float(np.mean(row["return"])) for row in self.runs[m].curve.read()]


def _some(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """A fixed number of states, evenly spread over what was visited."""
    return states[np.linspace(0, len(states) - 1, PROBED).astype(np.int64)]
