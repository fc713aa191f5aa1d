"""Members that fine-tune side by side: a step of each, and the updates that follow it.

A step is: each member acts once in its own environment (pi_0 while its plan warms up), and then
learns from `utd` batches of its own rows and D's. What happens to a member never depends on the
others, so that a population gives the runs that its members would have given alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from control import algorithms, checkpoint
from control.agent import Agent
from control.collect import Collector
from control.datasets.dataset import Dataset
from control.datasets.hdf5 import read_hdf5
from control.experience import rows_of, seeds_of
from control.gauges import Gauges
from control.handover import FinetuneRun, agents_of, algorithm_of, give_rival, rival_of
from control.intervene import Pull, Strengths, check_reference, honour, reset_
from control.learner import Learner, Metrics
from control.pretrain import fresh
from control.settings import ControlRecipe, FinetuneSettings
from control.storage import Batch, Share, Storage, indices
from control.streams import Streams


@dataclass(slots=True)
class Population:
    """Fine-tuning at work on M members."""

    recipe: ControlRecipe
    settings: FinetuneSettings
    runs: Sequence[FinetuneRun]
    learner: Learner
    views: Sequence[Agent]
    reference: Agent
    storage: Storage
    shares: Sequence[Share]
    strengths: Sequence[Strengths]
    pull: Pull
    collector: Collector
    gauges: Gauges
    delay: int
    updates: list[int]
    """Critic updates that each member has had."""
    first_turns: Sequence[int]
    """The step at which each member's policy may first move."""
    step: int = 0

    @classmethod
    def start(
        cls,
        dataset: Dataset,
        recipe: ControlRecipe,
        settings: FinetuneSettings,
        runs: Sequence[FinetuneRun],
    ) -> Population:
        """Build everything as it is before the first step."""
        algorithm = algorithm_of(settings, recipe)
        seeds = [run.seed for run in runs]
        agent, reference = agents_of(dataset, recipe, settings, runs)
        for run in runs:
            honour(run.plan, policy=recipe.networks.policy, critic=agent.critic is not None)
        views = [agent.member(m) for m in range(len(runs))]
        learner = algorithms.start(
            algorithm, agent, views, [seeds_of(s, "learning noise")[0] for s in seeds]
        )
        rollouts = [read_hdf5(run.episodes) for run in runs]
        rival = rival_of(settings, reference)
        give_rival(learner, rival)
        before = [len(r) if settings.diagnosis_episodes else 0 for r in rollouts]
        storage = Storage(
            agent.observation,
            agent.action,
            data=rows_of(dataset, agent, recipe.dataset, algorithm),
            members=len(runs),
            capacity=settings.capacity or settings.steps + max(before),
            device=recipe.device,
        )
        strengths = [
            Strengths.of(run.plan, collected=n) for run, n in zip(runs, before, strict=True)
        ]
        if settings.supervised is not None:
            strengths = [s.on_data_alone() for s in strengths]
        shares = [
            s.mix(seed, np.random.default_rng(seeds_of(seed, "own rows")[0]), settings.utd)
            for s, seed in zip(strengths, seeds, strict=True)
        ]
        pull = Pull(
            strengths=strengths,
            reference=reference,
            storage=storage,
            streams=Streams([seeds_of(s, "anchor noise")[0] for s in seeds], recipe.device),
            seeds=[seeds_of(s, "imitated rows")[0] for s in seeds],
            batch=settings.batch,
        )
        collector = Collector.start(
            recipe,
            algorithm,
            agent,
            reference,
            storage,
            seeds=seeds,
            warm=[s.warm for s in strengths],
            rival=rival,
        )
        gauges = Gauges.start(
            recipe, runs, dataset, reference, storage, rollouts=rollouts, rival=rival
        )
        return cls(
            recipe, settings, runs, learner, views, reference, storage, shares, strengths, pull,
            collector, gauges, algorithms.delay_of(algorithm), [0] * len(runs),
            [max(s.warm, settings.start - n - 1) for s, n in zip(strengths, before, strict=True)],
        )  # fmt: skip

    @property
    def agent(self) -> Agent:
        """The members' networks."""
        return self.learner.agent

    def playing(self) -> AbstractContextManager[None]:
        """Environments for the members, open while the block runs."""
        return self.collector.playing()

    def begin(self) -> None:
        """Check the references, make the first resets, evaluate pi_0."""
        for run in self.runs:
            run.log.truncate_after(-1)
            run.curve.truncate_after(-1)
        if any(run.plan.anchor is not None for run in self.runs):
            probe = self.gauges.probe.observations
            noise = torch.zeros(*probe.shape[:2], self.agent.action, device=probe.device)
            check_reference(self.agent, self.reference, probe, noise)
        for m, run in enumerate(self.runs):
            if self.settings.diagnosis_episodes:
                self.collector.take(m, run.episodes)
        self.gauges.evaluate(self.agent, self.views, 0)
        self.gauges.log(self.agent, 0, {}, self._strengths_told())
        for m, run in enumerate(self.runs):
            if run.plan.reset is not None and run.plan.reset.every == 0:
                self._reset(m)

    def resume(self) -> None:
        """Go on from the members' checkpoints."""
        for m, run in enumerate(self.runs):
            facts = checkpoint.restore(
                run.folder, m=m, view=self.views[m], steppers=self.learner.steppers,
                streams=self._streams(), storage=self.storage,
            )  # fmt: skip
            self.step = int(facts["step"])
            self.updates[m] = int(facts["updates"])
            self.pull.steered[m] = float(facts["anchor"])
            checkpoint.set_generator_state(self.shares[m].own, facts["own_rows"])
            self.collector.restore(m, facts["collector"])
            run.log.truncate_after(self.step)
            run.curve.truncate_after(self.step)
            self.gauges.restore(m)

    def advance(self) -> Metrics:
        """One environment step of every member, and the updates that follow it."""
        settings, step = self.settings, self.step
        if settings.supervised is None:
            self.collector.step(step)
        for m, first in enumerate(self.first_turns):
            if step == first and settings.critic_first and settings.supervised is None:
                self._critic_alone(m)
        metrics = self._learn(step)
        self.step = step + 1
        for m, run in enumerate(self.runs):
            reset = run.plan.reset
            due = reset is not None and reset.every and self.step % reset.every == 0
            if due and self.step < settings.steps:  # nothing could be learnt after the last
                self._reset(m)
        if self.step % settings.log_every == 0:
            told = self._strengths_told()
            self.gauges.log(self.agent, self.step, metrics, told, self.collector.taken())
        if self.step % settings.eval_every == 0 or self.step == settings.steps:
            self.gauges.evaluate(self.agent, self.views, self.step)
        if self.step % settings.save_every == 0 and self.step < settings.steps:
            self._save()
        return metrics

    def _learn(self, step: int) -> Metrics:
        settings = self.settings
        critic = [self._may_learn(m, step) for m in range(len(self.runs))]
        if not any(critic):
            return {}
        actor = [on and step >= s.warm for on, s in zip(critic, self.strengths, strict=True)]
        drawn = [self._indices(critic) for _ in range(settings.utd)]
        batch = self.storage.gather(np.concatenate(drawn, axis=1))
        window = min(self.delay, settings.utd)
        metrics: Metrics = {}
        for u in range(settings.utd):
            number = step * settings.utd + u
            turn = (number + 1) % self.delay == 0
            metrics = {
                **metrics,
                **self.learner.update(
                    self._cut(batch, u, u + 1),
                    critic=critic,
                    actor=actor if turn else None,
                    rows=self._cut(batch, max(u + 1 - window, 0), u + 1) if turn else None,
                    extra=self._pull(step, number, actor) if turn else None,
                ),
            }
        return metrics

    def _cut(self, batch: Batch, first: int, stop: int) -> Batch:
        return batch.rows(first * self.settings.batch, stop * self.settings.batch)

    def _pull(self, step: int, number: int, actor: Sequence[bool]) -> Pull | None:
        self.pull.step, self.pull.updates = step, number
        self.pull.streams.only(actor)
        return None if self.pull.idle else self.pull

    def _may_learn(self, m: int, step: int) -> bool:
        """Whether member m's critic moves at this step."""
        if self.settings.supervised is not None:
            return True
        if self.storage.size(m) < self.settings.start:
            return False
        return self.settings.warmup_critic == "learns" or step >= self.strengths[m].warm

    def _indices(self, active: Sequence[bool]) -> NDArray[np.int64]:
        found = indices(
            self.storage, self.shares, updates=self.updates, batch=self.settings.batch,
            active=active,
        )  # fmt: skip
        for m, on in enumerate(active):
            self.updates[m] += int(on)
        return found

    def _critic_alone(self, m: int) -> None:
        """Train a new critic on what pi_0 has collected, before it moves the policy."""
        only = [i == m for i in range(len(self.runs))]
        still = [False] * len(self.runs)
        for number in range(self.settings.critic_first):
            turn = (number + 1) % self.delay == 0
            self.learner.update(
                self.storage.gather(self._indices(only)), critic=only, actor=still if turn else None
            )

    def _reset(self, m: int) -> None:
        run = self.runs[m]
        if run.plan.reset is None:
            return
        base = None
        if run.plan.reset.how == "interpolate" and self.recipe.pretrain.path is None:
            base = fresh(self.recipe, self.gauges.dataset, [run.seed])
        reset_(
            run.plan.reset, self.views[m], steppers=self.learner.steppers, m=m, base=base,
            seed=seeds_of(run.seed, f"reset {self.step}")[0],
        )  # fmt: skip

    def _strengths_told(self) -> list[dict[str, float]]:
        told = []
        for m, s in enumerate(self.strengths):
            now = {
                "regime/replay_share": s.at(s.share, self.step),
                "regime/replay_weight": s.at(s.weight, self.step),
                "regime/anchor": self.pull.anchor(m, self.step),
            }
            told.append(now)
        return told

    def _streams(self) -> dict[str, Streams]:
        return {
            "learner": self.learner.streams,
            "anchor": self.pull.streams,
            "acting": self.collector.streams,
        }

    def _save(self) -> None:
        for m, run in enumerate(self.runs):
            checkpoint.save(
                run.folder, step=self.step, m=m, view=self.views[m],
                steppers=self.learner.steppers, streams=self._streams(), storage=self.storage,
                closed=self.collector.closed(m),
                facts={
                    "updates": self.updates[m],
                    "anchor": self.pull.steered[m],
                    "own_rows": checkpoint.generator_state(self.shares[m].own),
                    "collector": self.collector.facts(m),
                },
            )  # fmt: skip
