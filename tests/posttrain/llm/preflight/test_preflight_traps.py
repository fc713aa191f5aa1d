from dataclasses import replace

import pytest

from posttrain.intervention.plan import Plan, Replay, Reset
from posttrain.llm.preflight.traps import settings_checks
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    ExactReward,
    LlmRecipe,
    Lora,
    ModelSettings,
    MonitorSettings,
    RlSettings,
    SftSettings,
)

BATCH = {"per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 1e-5}


def recipe(rl=None, **given):
    return LlmRecipe(
        kind="llm",
        name="r",
        data=DataSettings(path="unused"),
        reward=ExactReward(),
        **{
            "sft": SftSettings(trainer={"learning_rate": 1e-4}),
            "rollout": Decoding(max_new_tokens=5),
            "rl": rl or RlSettings(trainer=BATCH),
            **given,
        },
    )


def rl(**trainer):
    return RlSettings(trainer={**BATCH, **trainer})


def checks(given, folder, *, plan=None, accelerator=False, world=1):
    found = settings_checks(
        given, plan=plan or Plan(), accelerator=accelerator, world=world, heldout=500,
        folder=folder,
    )  # fmt: skip
    return {f.check: f for f in found}


def wrong(found):
    return {check: f.severity for check, f in found.items() if f.severity != "ok"}


def test_a_sound_recipe_passes(tmp_path):
    found = checks(recipe(), tmp_path)
    assert wrong(found) == {}
    assert len(found) == 11


def test_before_the_diagnosis_the_plan_is_unknown(tmp_path):
    found = settings_checks(
        recipe(), plan=None, accelerator=False, world=1, heldout=500, folder=tmp_path
    )
    assert {f.check for f in found if f.severity == "unknown"} == {"settings.plan"}


LORA = ModelSettings(path="somebody/model", lora=Lora())
TRAPS = {
    "greedy": (recipe(rollout=Decoding(temperature=0.0)), {"settings.sampler": "stop"}),
    "cut": (recipe(rollout=Decoding(top_p=0.9)), {"settings.sampler": "warn"}),
    "no such field": (recipe(rl(learning_rat=1)), {"settings.rl_trainer": "stop"}),
    "decided elsewhere": (recipe(rl(beta=0.1)), {"settings.rl_trainer": "stop"}),
    "not divisible": (recipe(rl(num_generations=5)), {"settings.rl_trainer": "stop"}),
    "sft field": (
        recipe(sft=SftSettings(trainer={"lr": 1e-4})),
        {"settings.sft_trainer": "stop"},
    ),
    "mid-cycle": (
        recipe(replace(rl(steps_per_generation=4), save_every=3)),
        {"settings.cycle": "stop"},
    ),
    "stale": (
        recipe(replace(rl(steps_per_generation=8), save_every=8)),
        {"settings.freshness": "warn"},
    ),
    "too fast": (recipe(rl(learning_rate=1e-3)), {"settings.learning_rate": "warn"}),
    "forgets": (
        recipe(rl(learning_rate=5e-4), model=ModelSettings(path="somebody/model"), sft=None),
        {"settings.learning_rate": "warn"},
    ),
    "adapter stays": (
        recipe(rl(learning_rate=1e-6), model=LORA, sft=None),
        {"settings.learning_rate": "warn"},
    ),
    "head": (
        recipe(model=ModelSettings(lora=Lora(target="(q_proj|lm_head)"))),
        {"settings.lora": "warn"},
    ),
    "half on a CPU": (
        recipe(model=ModelSettings(dtype="bfloat16")),
        {"settings.precision": "warn"},
    ),
    "more than there are": (
        recipe(replace(rl(), eval_units=600)),
        {"settings.evaluation": "warn"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_is_found_and_nothing_else(name, tmp_path):
    given, expected = TRAPS[name]
    found = checks(given, tmp_path)
    assert wrong(found) == expected
    assert all(f.change for f in found.values() if f.severity != "ok")


def test_half_precision_weights_trained_whole_warn_on_a_gpu_too(tmp_path):
    half = recipe(model=ModelSettings(dtype="bfloat16"))
    found = checks(half, tmp_path, accelerator=True)["settings.precision"]
    assert "rounded away" in found.text
    adapted = recipe(model=ModelSettings(dtype="bfloat16", lora=Lora()))
    assert checks(adapted, tmp_path, accelerator=True)["settings.precision"].severity == "ok"


def test_a_plan_that_the_learner_cannot_honour_stops(tmp_path):
    reset = Plan(reset=Reset(parts=("policy",), how="shrink_perturb"))
    found = checks(recipe(), tmp_path, plan=reset)["settings.plan"]
    assert found.severity == "stop"
    assert "replay" in found.text


def test_replayed_rows_must_be_dealt_out_evenly(tmp_path):
    plan = Plan(replay=Replay(weight=0.5))
    assert checks(recipe(), tmp_path, plan=plan, world=2)["settings.replay"].severity == "ok"
    assert checks(recipe(), tmp_path, plan=plan, world=3)["settings.replay"].severity == "stop"


def test_a_monitor_without_anything_to_adapt_stops(tmp_path):
    asked = recipe(replace(rl(), monitor=MonitorSettings(adapt=("release",))))
    assert wrong(checks(asked, tmp_path)) == {"settings.monitor": "stop"}
    replayed = Plan(replay=Replay(weight=0.5))
    assert wrong(checks(asked, tmp_path, plan=replayed)) == {}
