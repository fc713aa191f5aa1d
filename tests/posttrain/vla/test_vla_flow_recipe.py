"""A flow from a recipe: cloned, measured, fine-tuned, killed, saved and read again."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.intervention.plan import Replay
from posttrain.tuning import training
from posttrain.tuning.settings import Lora
from posttrain.vla import checkpoint, pipeline, sft
from posttrain.vla.flow.chain import FlowError
from posttrain.vla.flow.policy import load_policy
from posttrain.vla.flow.start import is_pi0, make_flow
from posttrain.vla.flow.trainer import OFF
from posttrain.vla.observation import Observations
from posttrain.vla.settings import (
    ActionSettings,
    DataSettings,
    Decoding,
    DiagnoseSettings,
    EnvironmentSettings,
    FlowSettings,
    ModelSettings,
    RlSettings,
    SftSettings,
    VlaRecipe,
)

MODEL = ModelSettings(path="tiny_pi0", hidden=16, layers=1, flow=FlowSettings(steps=3))
REPLAY = Replay(weight=0.5)
"""Moves the weights even where no two returns of a group differ."""
RL = RlSettings(
    steps=2, starts=8, eval_every=2, eval_starts=2, save_every=1, probe_rows=4, replay_rows=4,
    trainer={"num_generations": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
)  # fmt: skip


def recipe_in(folder, **given):
    return VlaRecipe(
        **{
            "kind": "vla", "name": "flow", "output": str(folder), "model": MODEL, "rl": RL,
            "environment": EnvironmentSettings(
                options={"colours": 2, "actions": "continuous"}, envs=8
            ),
            "data": DataSettings(episodes=12, heldout=2),
            "sft": SftSettings(check_rows=4, trainer={"max_steps": 2}),
            "rollout": Decoding(temperature=0.8),
            "diagnose": DiagnoseSettings(starts=2, minimum=2, batch=2, film=1),
            "interventions": (REPLAY,), **given,
        }
    )  # fmt: skip


def weights(folder):
    return load_policy(folder).model.state_dict()


def same(one, two):
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from start to end, with rollouts at another temperature than 1."""
    return pipeline.run(recipe_in(tmp_path_factory.mktemp("whole")))


def pi0_and_rl(folder):
    found = [path.parent for path in folder.rglob("flow.json") if "checkpoint" not in str(path)]
    return {path.name: path for path in found}


def test_a_recipe_runs_to_its_outcome(finished):
    folders = pi0_and_rl(finished)
    assert set(folders) == {"sft", "rl"}
    assert (finished / "outcome.json").is_file()
    assert not same(weights(folders["sft"]), weights(folders["rl"]))
    assert load_policy(folders["rl"]).model.config.flow["steps"] == 3


def test_a_run_that_is_killed_in_rl_ends_with_the_same_weights(finished, tmp_path):
    class KilledError(Exception):
        pass

    step = training.Keep.on_step_end

    def die(self, args, state, control, **kwargs):
        if state.global_step == 2 and state.max_steps == 2 and "rl" in args.output_dir:
            raise KilledError
        return step(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Keep, "on_step_end", die)
        with pytest.raises(KilledError):
            pipeline.run(recipe_in(tmp_path))
    again = pipeline.run(recipe_in(tmp_path))
    assert same(weights(pi0_and_rl(finished)["rl"]), weights(pi0_and_rl(again)["rl"]))


FRESH = """
import sys, numpy as np
from pathlib import Path
from posttrain.vla.flow.policy import load_policy
from posttrain.vla.observation import Observations
given = np.load(sys.argv[2])
seen = Observations(images={"image": given["image"]}, instructions=["go"] * len(given["image"]))
policy = load_policy(Path(sys.argv[1]))
made = [policy.decide(seen, given["draws"], temperature=t).tokens for t in (1.0, 0.0)]
np.save(sys.argv[3], np.stack(made))
"""


def test_another_process_decides_what_the_policy_in_memory_decided(tmp_path):
    rng = np.random.default_rng(0)
    from gymnasium.spaces import Box

    policy = make_flow(MODEL, Box(-1, 1, (2,)), rng.uniform(-1, 1, (50, 2)), instructions=["go"])
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-2)
    image = rng.integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    seen = Observations(images={"image": image}, instructions=["go"] * 5)
    rows = policy.rows(seen, policy.tokenizer.encode(rng.uniform(-1, 1, (5, 1, 2))))
    policy.model.train()
    for _ in range(3):
        optimizer.zero_grad()
        policy.model(**rows).loss.backward()
        optimizer.step()
    draws = rng.random((5, policy.tokens))
    np.savez(tmp_path / "given.npz", image=image, draws=draws)
    checkpoint.save(policy, tmp_path / "pi0")
    place = tmp_path / "tokens.npy"
    given = [str(tmp_path / "pi0"), str(tmp_path / "given.npz"), str(place)]
    subprocess.run([sys.executable, "-c", FRESH, *given], check=True)
    here = [policy.decide(seen, draws, temperature=t).tokens for t in (1.0, 0.0)]
    assert np.array_equal(np.load(place), np.stack(here))


def test_an_adapter_is_trained_and_merged(tmp_path):
    model = replace(MODEL, lora=Lora(rank=2, alpha=4))
    folders = pi0_and_rl(pipeline.run(recipe_in(tmp_path, model=model)))
    assert not same(weights(folders["sft"]), weights(folders["rl"]))


def test_a_folder_of_a_flow_keeps_its_prompt_and_takes_the_chain_of_the_recipe(finished):
    folder = pi0_and_rl(finished)["sft"]
    settings = replace(MODEL, path=str(folder), flow=FlowSettings(steps=4, noise=0.25))
    found = checkpoint.load(folder, settings, temperature=0.5)
    assert found.model.chain.steps == 4
    assert found.model.chain.noise == 0.125
    with pytest.raises(FlowError, match="chunk"):
        checkpoint.load(folder, replace(settings, actions=ActionSettings(chunk=2)))


def test_a_pi0_without_the_scale_of_d_is_cloned_first(finished, tmp_path):
    from gymnasium.spaces import Box

    policy = load_policy(pi0_and_rl(finished)["sft"])
    policy.model.save_pretrained(tmp_path)
    policy.words.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["flow"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = replace(MODEL, path=str(tmp_path))
    assert is_pi0(settings)
    space, actions = Box(-1, 1, (2,)), np.random.default_rng(0).uniform(-1, 1, (50, 2))
    found = make_flow(settings, space, actions)
    assert same(found.model.state_dict(), policy.model.state_dict())
    with pytest.raises(FlowError, match="sft"):
        make_flow(settings, space, actions, cloned=False)
    with pytest.raises(FlowError, match="room"):
        make_flow(settings, Box(-1, 1, (3,)), np.zeros((50, 3)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"actions": ActionSettings(bins=9)}, "bins"),
        ({"prompt": "{instruction} {state}"}, "state"),
    ],
)
def test_what_a_flow_does_not_take_is_refused(given, words):
    from gymnasium.spaces import Box

    with pytest.raises(FlowError, match=words):
        make_flow(replace(MODEL, **given), Box(-1, 1, (2,)), np.zeros((5, 2)))


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("noise", 0.0), ("noise", 2.0)])
def test_chains_without_a_density_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        FlowSettings(**{field: value})


def test_trainers_of_flows_leave_checkpointing_of_activations_off():
    assert sft.preset(flow=True) == OFF
    assert sft.preset(flow=False) == {}
