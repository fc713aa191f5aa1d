"""A world, a policy with new weights, and trainers that are given episodes in place of playing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import SFTConfig
from vla_by_hand import ByHand, Extra, by_hand

from posttrain.intervention.plan import Anchor, Plan, Replay
from posttrain.record import MetricsLog
from posttrain.tuning import callbacks, training
from posttrain.tuning.interventions import interventions
from posttrain.tuning.keep import Batch
from posttrain.tuning.world import World
from posttrain.vla import rl, sft
from posttrain.vla.actions import from_data
from posttrain.vla.demonstrations import Demonstrations
from posttrain.vla.environments.fleet import Fleet
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.frames import Frames
from posttrain.vla.job import Experience, Job
from posttrain.vla.maker import make
from posttrain.vla.played import Played
from posttrain.vla.policy import Policy, load_policy, make_policy, save
from posttrain.vla.rollout import play
from posttrain.vla.settings import (
    DataSettings,
    EnvironmentSettings,
    ModelSettings,
    ReturnSettings,
    RlSettings,
)
from posttrain.vla.starts import training_starts

GROUP, RATE, LOGGED = 8, 5e-4, 5
EXTRAS = {"empty": Extra(), "replay": Extra(replay=0.1), "exact KL": Extra(kl=0.1)}


def plan_of(extra: Extra) -> Plan:
    """The plan that asks for the same."""
    plan = Plan()
    if extra.replay:
        plan = Replay(weight=extra.replay)(plan)
    return Anchor(coefficient=extra.kl, estimator="exact")(plan) if extra.kl else plan


@dataclass(frozen=True, eq=False)
class Stage:
    """What all arms share: a grid, demonstrations, and a policy of a width."""

    folder: Path
    hidden: int
    episodes: int
    """Of a step."""
    batches: int = 4
    """Steps' episodes that are played once, and given to the trainers in turn."""
    demonstrated: int = 200
    replayed: int = 64
    world: EnvironmentSettings | None = None
    """Another than the built-in one."""

    @cached_property
    def environment(self) -> EnvironmentSettings:
        """The recipe's."""
        return self.world or EnvironmentSettings(envs=min(64, self.episodes))

    @cached_property
    def data(self) -> Demonstrations:
        """D, with the frames that a probe would watch behind it."""
        return make(self.environment, DataSettings(episodes=self.demonstrated, heldout=4))

    @cached_property
    def instructions(self) -> list[str]:
        """All there are."""
        return sorted({e.instruction for e in self.data.episodes})

    @cached_property
    def pi0(self) -> Path:
        """The folder of a policy that has learnt nothing."""
        fleet = make_fleet(self.environment)
        actions = from_data(fleet.action_space, self.data.actions, ModelSettings().actions)
        fleet.close()
        settings = ModelSettings(hidden=self.hidden)
        save(make_policy(settings, actions, instructions=self.instructions), self.folder)
        return self.folder

    def policy(self) -> Policy:
        """It."""
        return load_policy(self.pi0)

    @cached_property
    def played(self) -> list[list[Played]]:
        """Episodes of some steps."""
        policy, fleet = self.policy(), make_fleet(self.environment)
        found = [self.roll(policy, fleet, number) for number in range(self.batches)]
        fleet.close()
        return found

    def roll(self, policy: Policy, fleet: Fleet, number: int) -> list[Played]:
        """The episodes of one step."""
        first = number * self.episodes // GROUP
        return play(
            policy,
            fleet,
            [first + i // GROUP for i in range(self.episodes)],
            draws=lambda place: np.random.default_rng((number, place)),
            temperature=1.0,
            keep="decisions",
        )

    def job(self, plan: Plan, **trainer: Any) -> Job:
        """A fine-tuning without evaluations or checkpoints."""
        frames = Frames(self.data, self.policy().tokenizer)
        few = list(range(8))
        settings = RlSettings(
            steps=1_000_000,
            eval_every=1_000_000,
            probe_rows=8,
            replay_rows=self.replayed,
            trainer={
                "num_generations": GROUP, "per_device_train_batch_size": self.episodes,
                "learning_rate": RATE, "lr_scheduler_type": "constant",
                "logging_steps": LOGGED, "save_strategy": "no", **trainer,
            },
        )  # fmt: skip
        return Job(
            pi0=self.pi0, settings=settings, plan=plan,
            experience=Experience(
                rows=training_starts(4 * self.episodes, seed=0), heldout=training_starts(4, seed=1),
                demonstrations=self.data, watched=self.data.only(few),
                decided=(frames.seen(few), frames.tokens[few]),
                prior=0.5, alpha=0.05, scale=(0.0, 1.0),
            ),
            load=load_policy, base=dict, fleet=lambda: make_fleet(self.environment),
            returns=ReturnSettings(), execute=0, temperature=1.0, lora=None, seed=0,
            folder=self.folder / "out", metrics=MetricsLog(self.folder / "metrics.jsonl"),
            curve=MetricsLog(self.folder / "curve.jsonl"), world=World(),
        )  # fmt: skip

    def trainer(self, extra: Extra, **more: Any) -> Any:
        """RL under the plan, on the episodes of `played`."""
        job = self.job(plan_of(extra), **more)
        config = rl.grpo_config(job, start=False)
        fleet = make_fleet(EnvironmentSettings(envs=1))
        made = rl.trainer_of(job, config, job.load(job.pi0), fleet, callbacks.Recorder())
        for callback in interventions(job, made, None, None):
            made.add_callback(callback)
        training.quiet(made)
        given = self.played
        made.episodes = lambda *_, **__: given[int(made.state.global_step) % len(given)]
        return made

    def hand(self, extra: Extra, like: Any) -> ByHand:
        """The hand-written loop."""
        return by_hand(
            self.policy(), self.instructions, rate=RATE, like=like, extra=extra,
            pi0=self.policy().model,
        )  # fmt: skip

    def hand_steps(self, extra: Extra, trainer: Any) -> Callable[[int], tuple[int, float]]:
        """A step of the hand-written loop by its number; its rows and its loss."""
        loop, replay = self.hand(extra, trainer.args), trainer.replay
        frames = Frames(self.data, self.policy().tokenizer)
        where = loop.ids.device

        def step(number: int) -> tuple[int, float]:
            kept = None
            if replay is not None:
                at = Batch(step=number, micro=0, micros=1, accumulation=1, rank=0, world=1)
                rows = replay.rows_at(replay.kept(None), at)
                taken = torch.from_numpy(frames.tokens[rows]).to(where)
                kept = frames.seen(rows.tolist()), taken
            return loop.rl(self.played[number % len(self.played)], GROUP, kept)

        step.loop = loop  # type: ignore[attr-defined]
        return step

    def cloner(self, batch: int) -> tuple[Any, Callable[[int], float], ByHand]:
        """SFT by TRL, in the order of D, and by hand: a step each, which returns its loss."""
        policy = self.policy()
        frames = Frames(self.data, policy.tokenizer)
        count = len(frames) // batch * batch
        config = training.trainer_config(
            SFTConfig,
            "sft.trainer",
            {
                "learning_rate": RATE, "lr_scheduler_type": "constant", "logging_steps": LOGGED,
                "per_device_train_batch_size": batch, "save_strategy": "no",
                "train_sampling_strategy": "sequential",
            },
            ours={
                **sft.FIXED, "output_dir": str(self.folder / "sft"), "seed": 0,
                "max_steps": 1_000_000,
            },
        )  # fmt: skip
        trainer = sft.trainer_kind(policy)(
            model=policy.model,
            args=config,
            train_dataset=sft.numbers(range(count)),
            data_collator=sft.Collate(frames, policy),
            processing_class=policy.processor,
        )
        training.quiet(trainer)
        loop = self.hand(Extra(), config)

        def step(number: int) -> float:
            first = number * batch % count
            rows = list(range(first, first + batch))
            taken = torch.from_numpy(frames.tokens[rows]).to(loop.ids.device)
            return loop.clone(frames.seen(rows), taken)

        return trainer, step, loop


def furthest(one: Any, other: Any) -> float:
    """The largest difference between the weights of two models."""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for (_, a), b in pairs)
