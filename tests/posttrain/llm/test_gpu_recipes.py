"""Recipes that need a GPU: what a machine without one can check of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trl import GRPOConfig

from posttrain.llm.settings import LlmRecipe
from posttrain.recipe import find_recipe, load
from posttrain.tuning.training import trainer_config

NAMES = ("vllm_colocate", "vllm_server", "lora", "qlora")


def recipe(name):
    return load(LlmRecipe, find_recipe(f"llm/smollm2_headlines{name}").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_trl_takes_every_field_of_the_trainer(name, tmp_path):
    settings = recipe(f"_{name}").rl
    config = trainer_config(
        GRPOConfig, "rl.trainer", settings.trainer, ours={"output_dir": str(tmp_path)}
    )
    assert config.use_vllm == name.startswith("vllm")
    if config.use_vllm:
        assert config.vllm_mode == name.removeprefix("vllm_")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_differs_from_the_recipe_that_runs_anywhere(name):
    plain, other = recipe(""), recipe(f"_{name}")
    trainer = {
        field: value
        for field, value in other.rl.trainer.items()
        if not field.startswith(("vllm_", "use_vllm"))
    }
    same = replace(
        other,
        name=plain.name,
        diagnose=replace(other.diagnose, backend=plain.diagnose.backend),
        rl=replace(other.rl, trainer=trainer),
    )
    if "lora" in name:  # an adapter takes larger steps
        assert trainer["learning_rate"] == 10 * plain.rl.trainer["learning_rate"]
        same = replace(same, model=plain.model, sft=plain.sft, rl=plain.rl)
    assert same == plain


@pytest.mark.parametrize("tracker", ["tensorboard", "none"])
def test_report_to_reaches_trl(tracker, tmp_path):
    from transformers.integrations import get_reporting_integration_callbacks

    if tracker == "tensorboard":
        pytest.importorskip("tensorboard")
    config = trainer_config(
        GRPOConfig, "rl.trainer", {"report_to": tracker}, ours={"output_dir": str(tmp_path)}
    )
    assert config.report_to == ([] if tracker == "none" else [tracker])
    names = [c.__name__ for c in get_reporting_integration_callbacks(config.report_to)]
    assert names == ([] if tracker == "none" else ["TensorBoardCallback"])


def test_tensorboard_gets_trls_values_and_ours(online):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from posttrain.intervention.plan import Plan
    from posttrain.llm import rl

    job = online.job(Plan(), report_to="tensorboard", logging_steps=1)
    rl.train(job)
    files = list(job.folder.rglob("events.out.tfevents.*"))
    assert files, f"no event file under {job.folder}"
    tags = set()
    for file in files:
        found = EventAccumulator(str(file))
        found.Reload()
        tags |= set(found.Tags()["scalars"])
    assert {"train/reward", "train/regime/kl_to_pi0"} <= tags
