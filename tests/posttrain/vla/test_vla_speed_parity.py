"""The hand-written loops that docs/vla_speed.md compares with do the trainers' mathematics."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from vla_arms import EXTRAS, Stage, furthest

from posttrain.tuning import training

STEPS = 4


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    training.silence()
    return Stage(tmp_path_factory.mktemp("stage"), 32, 32, demonstrated=24, replayed=8)


@pytest.mark.parametrize("name", EXTRAS)
def test_rl_by_hand_ends_with_the_trainers_weights(stage, name):
    trainer = stage.trainer(EXTRAS[name])
    step = stage.hand_steps(EXTRAS[name], trainer)
    trainer.args.max_steps, trainer.args.logging_steps = STEPS, 1
    trainer.train()
    found = [step(number) for number in range(STEPS)]
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["loss"] for row in logged] == pytest.approx([loss for _, loss in found], abs=1e-5)
    assert [row["episode/rows"] for row in logged] == [rows for rows, _ in found]
    assert furthest(trainer.model, stage.policy().model) > 1e-3
    assert furthest(trainer.model, step.loop.model) < 1e-4


def test_cloning_by_hand_ends_with_the_trainers_weights(stage):
    trainer, step, loop = stage.cloner(8)
    trainer.args.max_steps, trainer.args.logging_steps = STEPS, 1
    trainer.train()
    losses = [step(number) for number in range(STEPS)]
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert logged == pytest.approx(losses, abs=1e-5)
    assert furthest(trainer.model, stage.policy().model) > 1e-3
    assert furthest(trainer.model, loop.model) < 1e-4
