"""One plan, the very object, fine-tunes a control policy, a language model and a robot policy."""

from pathlib import Path

import pytest
import yaml

from posttrain import recipe
from posttrain.intervention.plan import Plan, Replay, Reset, Warmup, chain
from posttrain.record import Record

TESTS = Path(__file__).parents[1]
PLAN = chain(Replay(weight=0.5), Warmup(steps=1), Reset(parts=("optimizer",), every=2))


def control(folder):
    from tiny import tiny

    from control import pipeline

    few = ["finetune.steps=4", "finetune.eval_every=4", "finetune.log_every=1", "finetune.start=0"]
    return pipeline.run(tiny(folder, *few))


def language(folder):
    from test_run import RECIPE

    from posttrain.llm import pipeline
    from posttrain.llm.settings import LlmRecipe

    few = ["sft.trainer.max_steps=2", "diagnose.units=5", "diagnose.minimum=5", "rl.steps=3",
           "rl.eval_every=3", "interventions=[]", f"output={folder}"]  # fmt: skip
    return pipeline.run(recipe.load(LlmRecipe, yaml.safe_dump(RECIPE), few), stop_after="rl")


def robot(folder):
    from robot_runs import RECIPE

    from posttrain.vla import pipeline
    from posttrain.vla.settings import VlaRecipe

    few = ["rl.steps=3", "rl.eval_every=3", "interventions=[]", f"output={folder}"]
    return pipeline.run(recipe.load(VlaRecipe, yaml.safe_dump(RECIPE), few), stop_after="rl")


def test_one_plan_drives_everything(tmp_path, monkeypatch):
    for folder in ("control", "posttrain/vla", "posttrain"):
        monkeypatch.syspath_prepend(TESTS / folder)
    made = PLAN(Plan())
    for where in ("control.stages", "posttrain.llm.finetune", "posttrain.vla.finetune"):
        monkeypatch.setattr(f"{where}.plan_of", lambda *_, **__: made)
    for run in (control, language, robot):
        rows = Record(run(tmp_path / run.__name__)).metrics.read()
        weights = {row["step"]: row["regime/replay_weight"] for row in rows
                   if "regime/replay_weight" in row}  # fmt: skip
        assert 0.5 in weights.values(), run
        drift = {row["step"]: row["regime/kl_to_pi0"] for row in rows if "regime/kl_to_pi0" in row}
        assert drift[min(drift)] == pytest.approx(0, abs=1e-6), run  # it warms up
        assert drift[max(drift)] > 1e-6, run
