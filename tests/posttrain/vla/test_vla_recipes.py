"""Recipes of robot policies: what can be known of each without running it."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Box

from posttrain.intervention.plan import Plan
from posttrain.recipe import find_recipe, list_recipes, load
from posttrain.tuning.honour import PlanError, check_cycle, check_replay
from posttrain.tuning.world import World
from posttrain.vla.actions import ActionsError, from_data
from posttrain.vla.environments.apart import ADAPTERS
from posttrain.vla.environments.color_grid import ID, ColorGrid
from posttrain.vla.environments.make import GRIDS
from posttrain.vla.maker import read_options
from posttrain.vla.settings import VlaRecipe
from posttrain.vla.starts import TRAINING

NAMES = sorted(r.name for r in list_recipes() if r.name.startswith("vla/"))
GPU = ["vla/libero_openvla", "vla/libero_smolvlm"]
CLASSES = {"fetch": "FetchReach", "metaworld": "MetaWorld", "libero": "Libero"}


def recipe(name):
    return load(VlaRecipe, find_recipe(name).read_text())


def trainer(found, tmp_path):
    """TRL's configuration, as `posttrain.vla.rl` makes it."""
    from posttrain.vla.rl import grpo_config

    return grpo_config(
        SimpleNamespace(
            settings=found.rl,
            folder=tmp_path,
            pi0=tmp_path,
            seed=found.seed,
            plan=Plan(),
            temperature=found.rollout.temperature,
            world=World(),
        )
    )


def check_trainer(found, tmp_path):
    """Refuse numbers that do not go together."""
    config = trainer(found, tmp_path)
    check_cycle(config)
    check_replay(config, found.rl.replay_rows, 1)
    assert config.generation_batch_size % config.num_generations == 0
    return config


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_the_trainers_go_together(name, tmp_path):
    from trl import SFTConfig

    from posttrain.tuning.training import trainer_config

    found = recipe(name)
    config = check_trainer(found, tmp_path)
    assert found.rl.steps % found.rl.eval_every == 0  # the last policy is measured
    assert config.generation_batch_size // config.num_generations <= found.rl.starts
    trainer_config(SFTConfig, "sft.trainer", found.sft.trainer, ours={"output_dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["rl.replay_rows=63"], "rl.replay_rows"),
        (["rl.trainer.steps_per_generation=48", "rl.save_every=5"], "rl.save_every"),
    ],
)
def test_numbers_that_do_not_go_together_are_noticed(overrides, sentence, tmp_path):
    wrong = load(VlaRecipe, find_recipe(GPU[1]).read_text(), overrides)
    with pytest.raises(PlanError, match=sentence):
        check_trainer(wrong, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_diagnosis_has_enough_starts(name):
    found = recipe(name)
    assert found.diagnose.minimum <= found.diagnose.starts
    assert found.data.episodes < TRAINING
    if found.data.path == "made":
        read_options(found.data.options)
    else:
        assert found.data.options == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_exists_and_takes_its_options(name):
    """By its signature where its package may lack here, else by making it."""
    settings = recipe(name).environment
    if settings.id == ID:
        ColorGrid(**settings.options)
    elif settings.id.startswith(GRIDS):
        pytest.importorskip("minigrid")
        from posttrain.vla.environments.make import make_env

        env = make_env(settings)
        height, width, _ = env.observation_space["image"].shape
        env.close()
        assert height == width
        assert settings.max_steps == env.max_steps
    else:
        module = ADAPTERS[settings.id]
        made = importlib.import_module(f"posttrain.vla.environments.{module}")
        inspect.signature(getattr(made, CLASSES[module])).bind(**settings.options)
        assert set(settings.cameras) <= set(getattr(made, "CAMERAS", {"image": ""}))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in GPU])
def test_the_small_model_sees_what_it_can(name):
    """Square pictures of whole patches, and tokens that fit its positions."""
    from posttrain.tuning.tiny_vlm import PATCH

    found = recipe(name)
    assert found.model.path in {"tiny", "tiny_pi0"}
    assert found.environment.options.get("side", PATCH) % PATCH == 0
    assert found.environment.options.get("tile", PATCH) % PATCH == 0


@pytest.mark.parametrize("name", GPU)
def test_what_a_gpu_recipe_needs_is_said(name):
    found, text = recipe(name), find_recipe(name).read_text()
    assert "not run here" in text.splitlines()[0]
    assert "environment.python" in text
    assert "accelerate launch --config_file recipes/accelerate/gpu_1.yaml" in text
    assert found.environment.python is None  # whoever runs it names theirs
    assert found.environment.cameras  # a processor of one picture
    assert set(found.environment.cameras) <= set(found.data.columns)
    assert (found.data.returns, found.data.success_filtered) == ("assumed", True)


def test_openvlas_actions_are_those_of_its_checkpoints():
    found = recipe("vla/libero_openvla").model
    assert (found.actions.vocabulary, found.actions.bins, found.actions.chunk) == ("tail", 256, 1)
    assert found.actions.statistics.endswith("dataset_statistics.json")
    assert found.prompt == "In: What action should the robot take to {instruction}?\nOut:"
    assert found.lora.rank == 32


def test_a_checkpoint_that_nobody_made_is_refused_with_its_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipe("vla/libero_openvla").model
    space = Box(-1.0, 1.0, (7,), np.float32)
    with pytest.raises(ActionsError, match=r"model\.actions\.statistics: cannot read"):
        from_data(space, np.zeros((9, 7), np.float32), found.actions)
    assert from_data(space, np.zeros((9, 7), np.float32), replace(found.actions, statistics=None))
