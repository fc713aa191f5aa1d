"""A small policy cloned from a few demonstrations, made once a session."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from posttrain.intervention.plan import Plan
from posttrain.record import MetricsLog
from posttrain.tuning import training
from posttrain.tuning.world import World
from posttrain.vla.settings import (
    DataSettings,
    EnvironmentSettings,
    ModelSettings,
    ReturnSettings,
    RlSettings,
    SftSettings,
)

ENVIRONMENT = EnvironmentSettings(envs=8)
TRAINER = {
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "logging_steps": 1,
}


@dataclass(frozen=True)
class Cloned:
    """A policy's folder, the demonstrations it was cloned from, and others."""

    pi0: Path
    demonstrations: object
    heldout: object
    environment: EnvironmentSettings = ENVIRONMENT

    def job(self, folder, plan=None, *, lora=None, seed=3, load=None, rows=None, **settings):
        """A short fine-tuning under a plan."""
        from posttrain.vla.environments.make import make_fleet
        from posttrain.vla.job import Experience, Job
        from posttrain.vla.policy import load_policy
        from posttrain.vla.starts import measuring_starts, training_starts

        trainer = {**TRAINER, **settings.pop("trainer", {})}
        chosen = RlSettings(
            **{
                "steps": 4, "eval_every": 2, "eval_starts": 6, "save_every": 2, "probe_rows": 8,
                "replay_rows": 8, "trainer": trainer, **settings,
            }
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        return Job(
            pi0=self.pi0,
            settings=chosen,
            plan=Plan() if plan is None else plan,
            experience=Experience(
                rows=training_starts(16, seed=0) if rows is None else rows,
                heldout=measuring_starts([], 6, seed=0),
                demonstrations=self.demonstrations,
                watched=self.heldout,
                decided=self.decided(),
                prior=0.9,
                alpha=0.05,
                scale=(0.0, 1.0),
            ),
            load=load_policy if load is None else load,
            base=load_policy(self.pi0).model.state_dict,
            fleet=lambda: make_fleet(ENVIRONMENT),
            returns=ReturnSettings(),
            execute=0,
            temperature=1.0,
            lora=lora,
            seed=seed,
            folder=folder / "checkpoints",
            metrics=MetricsLog(folder / "metrics.jsonl"),
            curve=MetricsLog(folder / "curve.jsonl"),
            world=World(),
        )

    def decided(self):
        """What pi_0 sees and decides in a few episodes."""
        from posttrain.vla.environments.make import make_fleet
        from posttrain.vla.observation import join
        from posttrain.vla.policy import load_policy
        from posttrain.vla.rollout import play

        fleet = make_fleet(ENVIRONMENT)
        played = play(
            load_policy(self.pi0), fleet, list(range(8)),
            draws=lambda i: np.random.default_rng((9, i)), temperature=1.0, keep="decisions",
        )  # fmt: skip
        fleet.close()
        return join([p.seen for p in played]), np.concatenate([p.tokens for p in played])


@pytest.fixture(scope="session")
def cloned(tmp_path_factory):
    """A policy of 32 units that has seen 60 demonstrations twice."""
    from posttrain.vla import sft
    from posttrain.vla.actions import from_data
    from posttrain.vla.environments.make import make_fleet
    from posttrain.vla.maker import make
    from posttrain.vla.policy import make_policy, save

    training.silence()
    whole = make(ENVIRONMENT, DataSettings(episodes=60, heldout=8))
    demonstrations, heldout = whole.only(range(60)), whole.only(range(60, 68))
    folder = tmp_path_factory.mktemp("cloned")
    settings = ModelSettings(hidden=32)
    fleet = make_fleet(ENVIRONMENT)
    fleet.close()
    policy = make_policy(
        settings,
        from_data(fleet.action_space, whole.actions, settings.actions),
        instructions=sorted({e.instruction for e in whole.episodes}),
        seed=0,
    )
    model, _ = sft.train(
        policy, demonstrations, heldout,
        SftSettings(trainer={"num_train_epochs": 4, "learning_rate": 2e-3}),
        lora=None, seed=0, folder=folder / "c", log=MetricsLog(folder / "sft.jsonl"),
        world=World(),
    )  # fmt: skip
    save(replace(policy, model=model), folder / "pi0")
    return Cloned(folder / "pi0", demonstrations, heldout)
