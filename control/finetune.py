"""Online fine-tuning of pi_0 under a plan: every run of a setting as a member of one population.

A step is: each member acts once in its own environment (pi_0 while its plan warms up), and then
learns from `utd` batches of its own rows and D's. What happens to a member never depends on the
others, so that a population gives the runs that its members would have given alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from control import agent as agents
from control import algorithms, checkpoint
from control.agent import Agent, Streams
from control.collect import Collector
from control.datasets.dataset import Dataset
from control.datasets.hdf5 import read_hdf5
from control.experience import rows_of, seeds_of
from control.gauges import Gauges
from control.intervene import Pull, Strengths, check_reference, honour, reset_
from control.learner import Learner, Metrics
from control.pretrain import fresh
from control.settings import AlgorithmSettings, BcSettings, ControlRecipe, FinetuneSettings
from control.storage import Batch, Share, Storage, indices
from posttrain import progress
from posttrain.intervention.plan import Plan
from posttrain.record import MetricsLog


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRun:
    """One member: a seed, a plan, where it starts and where it writes."""

    seed: int
    plan: Plan
    pi0: Path
    """Folder of the pretrained agent."""
    folder: Path
    """Checkpoints."""
    out: Path
    """The fine-tuned agent, at the end."""
    log: MetricsLog
    curve: MetricsLog
    """One row an evaluation: step, units and their returns."""
    prior: float
    """J*_off."""
    scale: tuple[float, float] | None
    """The range of a return; None where it is not bounded."""
    alpha: float
    episodes: Path
    """The diagnosis' rollouts of pi_0."""
    eval_seeds: tuple[int, ...]
    """Starts of the episodes on which J(pi_n) is measured, those of the diagnosis."""


def finetune(dataset: Dataset, recipe: ControlRecipe, runs: Sequence[FinetuneRun]) -> None:
    """Fine-tune a population, or go on where it was killed.

    Raises:
        PlanError: a plan asks for what the algorithm cannot do.
        WrongReferenceError: the reference of an anchor is not pi_0.
        ValueError: pi_0 does not fit the networks of the recipe.
    """
    apart: dict[int | None, list[FinetuneRun]] = {}
    for run in runs:
        apart.setdefault(checkpoint.step_of(run.folder), []).append(run)
    for begun, together in apart.items():
        for _ in steps(dataset, recipe, together, begun=begun):
            pass


def steps(
    dataset: Dataset, recipe: ControlRecipe, runs: Sequence[FinetuneRun], *, begun: int | None
) -> Iterator[Metrics]:
    """Fine-tune members that stand at the same step, yielding the metrics of every step."""
    settings = recipe.finetune
    if settings is None:
        raise ValueError("finetune: the recipe does none")
    population = Population.start(dataset, recipe, settings, runs)
    with population.collector.playing():
        if begun is None:
            population.begin()
        else:
            population.resume()
        with progress.bar("fine-tuning", settings.steps) as bar:
            for step in range(population.step, settings.steps):
                yield population.advance()
                bar.update(step + 1)
    for m, run in enumerate(runs):
        agents.save(population.views[m], run.out, algorithm=_kind(settings, recipe), seed=run.seed)


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
        agent, reference = _agents(dataset, recipe, settings, runs)
        for run in runs:
            honour(run.plan, policy=recipe.networks.policy, critic=agent.critic is not None)
        views = [agent.member(m) for m in range(len(runs))]
        learner = algorithms.start(
            algorithm, agent, views, [seeds_of(s, "learning noise")[0] for s in seeds]
        )
        rollouts = [read_hdf5(run.episodes) for run in runs]
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
            settings,
            agent,
            reference,
            storage,
            seeds=seeds,
            warm=[s.warm for s in strengths],
        )
        gauges = Gauges.start(recipe, runs, dataset, reference, storage, rollouts=rollouts)
        return cls(
            recipe, settings, runs, learner, views, reference, storage, shares, strengths, pull,
            collector, gauges, algorithms.delay_of(algorithm), [0] * len(runs),
        )  # fmt: skip

    @property
    def agent(self) -> Agent:
        """The members' networks."""
        return self.learner.agent

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
        self.gauges.evaluate(self.agent, 0)
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
        for m, strength in enumerate(self.strengths):
            if step == strength.warm and settings.critic_first:
                self._critic_alone(m)
        metrics = self._learn(step)
        self.step = step + 1
        for m, run in enumerate(self.runs):
            reset = run.plan.reset
            if reset is not None and reset.every and self.step % reset.every == 0:
                self._reset(m)
        if self.step % settings.log_every == 0:
            told = self._strengths_told()
            self.gauges.log(self.agent, self.step, metrics, told, self.collector.taken())
        if self.step % settings.eval_every == 0 or self.step == settings.steps:
            self.gauges.evaluate(self.agent, self.step)
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
        if self.storage.size(m) < max(1, self.settings.start):
            return False
        return self.settings.warmup_critic == "learns" or step >= self.strengths[m].warm

    def _indices(self, active: Sequence[bool]) -> np.ndarray:
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
        for s in self.strengths:
            now = {
                "regime/replay_share": s.at(s.share, self.step),
                "regime/replay_weight": s.at(s.weight, self.step),
                "regime/anchor": s.at(s.anchor, self.step),
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
                    "own_rows": checkpoint.generator_state(self.shares[m].own),
                    "collector": self.collector.facts(m),
                },
            )  # fmt: skip


def algorithm_of(settings: FinetuneSettings, recipe: ControlRecipe) -> AlgorithmSettings:
    """What fine-tuning trains with: RL, or without RL further training on D."""
    if settings.supervised == "bc":
        return BcSettings()
    return recipe.pretrain.algorithm if settings.supervised == "offline" else settings.algorithm


def _kind(settings: FinetuneSettings, recipe: ControlRecipe) -> str:
    return algorithm_of(settings, recipe).kind


def _agents(
    dataset: Dataset,
    recipe: ControlRecipe,
    settings: FinetuneSettings,
    runs: Sequence[FinetuneRun],
) -> tuple[Agent, Agent]:
    """The members with pi_0's weights, and the frozen pi_0 itself."""
    algorithm = algorithm_of(settings, recipe)
    sizes = (dataset.observations.shape[1], dataset.actions.shape[1], len(runs))
    agent = algorithms.build(algorithm, recipe.networks, *sizes).to(recipe.device)
    agent.draw_([seeds_of(run.seed, "fine-tuning weights")[0] for run in runs])
    reference = algorithms.build(BcSettings(), recipe.networks, *sizes).to(recipe.device)
    for m, run in enumerate(runs):
        pretrained = agents.load(run.pi0)
        for into in (agent.member(m), reference.member(m)):
            agents.hand_over_(pretrained, into, critic=settings.critic == "keep")
            for mine, theirs in ((agent.center, into.center), (agent.scale, into.scale)):
                if m and not torch.equal(mine, theirs):
                    raise ValueError(
                        f"{run.pi0}: its observations are normalised differently from those of "
                        f"{runs[0].pi0}; fine-tune the two apart"
                    )
            for one in (agent, reference):
                one.center.copy_(into.center)
                one.scale.copy_(into.scale)
    return agent, reference.requires_grad_(False)
