"""The list of option names: complete, and as it is in the one framework that is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.export import FRAMEWORKS, export, frameworks
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "check_export_options.py"


def test_every_framework_has_its_list_and_says_what_was_read():
    assert set(frameworks()) == set(FRAMEWORKS)
    for framework in frameworks().values():
        assert framework.options
        commit = len(framework.source) == 40 and set(framework.source) <= set("0123456789abcdef")
        assert commit or framework.source.endswith(framework.version)
        for option in framework.options.values():
            assert option.file
            assert option.text


def test_no_option_is_listed_that_no_plan_reaches():
    moving = {"reference": "synced", "every": 5}
    plans = [
        Plan(),
        Plan(anchor=Anchor(**moving), replay=Replay(weight=0.5), warmup=Warmup()),
        Plan(anchor=Anchor(place="reward", target=0.1), replay=Replay(share=0.5)),
        Plan(warmup=Warmup()),
    ]
    for name, framework in frameworks().items():
        reached = {
            option
            for plan in plans
            for algorithm in framework.algorithms
            for option in export(plan, name, steps=9, algorithm=algorithm).options
        }
        assert reached == set(framework.options), name


def test_trls_names_are_fields_of_its_configurations():
    trl = pytest.importorskip("trl")
    names = frameworks()["trl"].options
    for config in (trl.GRPOConfig, trl.RLOOConfig):
        assert set(names) <= set(config.__dataclass_fields__)


def test_plain_trl_takes_the_options(tmp_path):
    trl = pytest.importorskip("trl")
    plan = Plan(anchor=Anchor(reference="synced", every=5, mix=0.3), warmup=Warmup(steps=3))
    options = export(plan, "trl", steps=9).options
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        **options,
    )
    assert (config.beta, config.ref_model_mixup_alpha) == (0.05, 0.3)
    assert config.get_warmup_steps(9) == 3


def check(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


def test_the_script_finds_trls_names_and_names_what_is_gone(tmp_path):
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    found = check(f"trl={Path(spec.origin).parents[1]}")
    assert found.returncode == 0, found.stdout + found.stderr
    lost = check(f"verl={tmp_path}")
    assert lost.returncode == 1
    assert "algorithm.kl_penalty: 'kl_penalty:' is not in verl/trainer" in lost.stdout
