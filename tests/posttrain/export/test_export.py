"""Prescriptions elsewhere: every option is a known one, every field of a plan is accounted for."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.export import FRAMEWORKS, export, frameworks
from posttrain.export.chord import mu, schedule
from posttrain.export.fields import idle, live
from posttrain.export.result import lines
from posttrain.intervention.adaptive import steer
from posttrain.intervention.plan import (
    Anchor,
    Plan,
    Replay,
    Reset,
    Warmup,
    chain,
    plan_from_dict,
)
from posttrain.intervention.ramp import Ramp

shares = st.floats(0.01, 1)
ramps = st.one_of(
    shares,
    st.builds(
        Ramp,
        start=shares,
        end=st.floats(0, 1),
        steps=st.integers(1, 99),
        shape=st.sampled_from(["linear", "cosine"]),
        rise=st.integers(0, 9),
    ),
)
places = st.sampled_from(["loss", "reward"])
estimators = st.sampled_from(["k1", "k2", "k3", "exact"])
anchors = st.one_of(
    st.builds(Anchor, coefficient=ramps, estimator=estimators, place=places),
    st.builds(Anchor, coefficient=ramps, term=st.just("bc"), place=places),
    st.builds(
        Anchor,
        coefficient=shares,
        target=shares,
        rate=st.floats(0.01, 0.9),
        place=places,
        estimator=estimators,
    ),
    st.builds(Anchor, rate=st.floats(0.2, 0.9)),
    st.builds(
        Anchor,
        reference=st.sampled_from(["synced", "reset"]),
        every=st.integers(1, 9),
        mix=shares,
        place=places,
    ),
    st.builds(Anchor, reference=st.just("reset"), trigger=shares, every=st.integers(0, 9)),
)
replays = st.builds(
    Replay,
    weight=ramps,
    share=st.one_of(st.just(0.0), ramps),
    prefix_share=st.one_of(st.just(0.0), ramps),
    prefix=shares,
    token_weight=st.sampled_from(["none", "chord", "dft", "luffy"]),
    gate=st.sampled_from(["none", "map", "live"]),
) | st.builds(Replay, share=ramps, token_weight=st.sampled_from(["none", "chord"]))
warmups = st.builds(Warmup, steps=st.integers(1, 50))
resets = st.builds(
    Reset,
    parts=st.sampled_from(
        [
            ("policy",),
            ("last_layers", "optimizer"),
            ("adapter",),
            ("optimizer",),
            ("critic", "head"),
        ]
    ),
    how=st.sampled_from(["fresh", "shrink_perturb", "interpolate"]),
    keep=shares,
    noise=shares,
    layers=st.integers(1, 3),
    every=st.integers(0, 20),
)
plans = st.builds(
    Plan,
    anchor=st.none() | anchors,
    replay=st.none() | replays,
    warmup=st.none() | warmups,
    reset=st.none() | resets,
)


def asked(plan):
    """The fields that differ from a default intervention, found without the code under test."""
    found = set()
    for intervention in plan.interventions:
        for f in fields(intervention):
            default = f.default
            value = getattr(intervention, f.name)
            if isinstance(default, float):
                default = Ramp(default) if isinstance(value, Ramp) else default
            if f.name != "kind" and value != default:
                found.add(f"{intervention.kind}.{f.name}")
    return found


def everywhere():
    return [(f, a) for f in FRAMEWORKS for a in frameworks()[f].algorithms]


@pytest.mark.parametrize(("framework", "algorithm"), everywhere())
@settings(max_examples=30)
@given(plan=plans, steps=st.integers(1, 300))
def test_every_field_is_accounted_for_and_every_option_is_known(framework, algorithm, plan, steps):
    found = export(plan, framework, steps=steps, algorithm=algorithm)
    assert asked(plan) <= set(found.fields)
    assert set(live(plan)) <= set(found.fields)
    for field, how in found.fields.items():
        told = {"approximate": found.notes, "cannot": found.cannot, "without effect": found.notes}
        if how != "exact":
            # what is not exact is said in a sentence that names the field
            head = [sentence.partition(":")[0].split(", ") for sentence in told[how]]
            assert any(field in names for names in head), field
    known = frameworks()[framework].options
    assert set(found.options) <= set(known)
    for name, value in found.options.items():
        if known[name].values:
            assert value in known[name].values, name
    assert found.text
    assert found.sources.keys() == found.options.keys()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_plain_rl_is_plain_whatever_the_framework_does_by_default(framework):
    found = export(Plan(), framework, steps=10)
    assert (found.notes, found.cannot, dict(found.fields)) == ((), (), {})
    off = {
        "verl": ("actor_rollout_ref.actor.use_kl_loss", False),
        "openrlhf": ("--algo.kl.init_coef", 0.0),
        "ms-swift": ("--beta", 0.0),
        "trinity": ("algorithm.kl_loss_fn", "none"),
        "nemo-rl": ("loss_fn.reference_policy_kl_penalty", 0.0),
        "open-instruct": ("--beta", 0.0),
        "rlinf": ("algorithm.kl_beta", 0.0),
        "lerobot": ("--online_ratio", 1.0),
        "trl": ("beta", 0.0),
    }
    if framework != "slime":  # off by default there
        name, value = off[framework]
        assert found.options[name] == value


STRENGTH = {
    "verl": "actor_rollout_ref.actor.kl_loss_coef",
    "openrlhf": "--algo.kl.init_coef",
    "ms-swift": "--beta",
    "trinity": "algorithm.kl_loss_fn_args.kl_coef",
    "nemo-rl": "loss_fn.reference_policy_kl_penalty",
    "slime": "--kl-loss-coef",
    "open-instruct": "--beta",
    "rlinf": "algorithm.kl_beta",
    "trl": "beta",
}


@pytest.mark.parametrize("framework", STRENGTH)
def test_a_constant_kl_to_pi0_is_exact(framework):
    found = export(Plan(anchor=Anchor(coefficient=0.03)), framework, steps=100)
    assert found.options[STRENGTH[framework]] == 0.03
    assert set(found.fields.values()) == {"exact"}
    assert not found.notes
    assert not found.cannot


@pytest.mark.parametrize("framework", STRENGTH)
def test_a_schedule_becomes_its_mean_and_says_so(framework):
    # 0.1, 0.075, 0.05, 0.025, then 0: the mean of 8 steps is 0.25 / 8
    plan = Plan(anchor=Anchor(coefficient=Ramp(0.1, 0.0, steps=4)))
    found = export(plan, framework, steps=8)
    assert found.options[STRENGTH[framework]] == 0.03125
    assert found.fields["anchor.coefficient"] == "approximate"
    assert any("0.1 -> 0 in 4 steps" in note and "0.03125" in note for note in found.notes)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_framework_keeps_d_in_the_group(framework):
    plan = Plan(replay=Replay(share=0.25))
    found = export(plan, framework, steps=10)
    if framework == "lerobot":  # off-policy: a share of the batch
        assert found.options["--online_ratio"] == 0.75
        assert found.fields["replay.share"] == "exact"
    else:
        assert found.fields["replay.share"] == "cannot"
        assert "Posttrain's own GRPO" in found.instead


def test_where_d_can_stand_beside_rl():
    plan = Plan(replay=Replay(weight=0.5))
    cannot = {f for f in FRAMEWORKS if export(plan, f, steps=9).fields["replay.weight"] == "cannot"}
    assert set(FRAMEWORKS) - cannot == {"ms-swift", "trinity", "rlinf"}


@given(weight=st.floats(0.01, 9), step=st.integers(0, 60))
def test_chords_mu_gives_the_plans_ratio_of_the_two_losses(weight, step):
    ramp = Ramp(weight, weight / 3, steps=40, shape="cosine", rise=10)
    found = schedule(ramp)

    def theirs(n):  # ms-swift's and Trinity's mu_schedule_function
        w, d, peak, valley = (
            found["warmup_steps"], found["decay_steps"], found["peak"], found["valley"]
        )  # fmt: skip
        if n < w:
            return n / w * peak
        if n >= w + d:
            return valley
        return (peak - valley) * 0.5 * (1 + math.cos(math.pi * (n - w) / d)) + valley

    if step in (10, 60):  # at the ends of the decay the ratio is the weight itself
        ours = ramp(step)
        assert theirs(step) / (1 - theirs(step)) == pytest.approx(ours, rel=1e-4)
    assert mu(weight) == pytest.approx(weight / (1 + weight), rel=1e-5)
    low, high = sorted((mu(weight / 3), mu(weight)))
    assert (0 if step < 10 else low) - 1e-9 <= theirs(step) <= high + 1e-9


@pytest.mark.parametrize(
    ("framework", "horizon", "target"),
    [
        ("verl", "algorithm.kl_ctrl.horizon", "algorithm.kl_ctrl.target_kl"),
        ("openrlhf", "--algo.kl.horizon", "--algo.kl.target"),
    ],
)
def test_the_horizon_is_our_rate_in_responses(framework, horizon, target):
    plan = Plan(
        anchor=Anchor(coefficient=0.1, place="reward", estimator="k1", target=0.05, rate=0.2)
    )
    found = export(plan, framework, steps=10, responses=64)
    assert found.options[target] == 0.05
    # their controller: coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon)
    theirs = 0.1 * (1 + 0.2 * 64 / found.options[horizon])
    assert theirs == pytest.approx(steer(0.1, 1.0, target=0.05, rate=0.2))


def test_a_target_beside_the_loss_is_refused_where_the_controller_is_for_rewards():
    plan = Plan(anchor=Anchor(coefficient=0.1, target=0.05))
    assert export(plan, "verl", steps=10).fields["anchor.target"] == "cannot"
    assert export(plan, "trinity", steps=10).fields["anchor.target"] == "cannot"
    assert export(plan, "openrlhf", steps=10).fields["anchor.target"] == "exact"


@pytest.mark.parametrize(
    ("framework", "switch", "every", "mix"),
    [
        ("ms-swift", "--sync_ref_model", "--ref_model_sync_steps", "--ref_model_mixup_alpha"),
        ("trl", "sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha"),
        ("open-instruct", None, "--ref_policy_update_freq", "--alpha"),
    ],
)
def test_a_synced_reference_is_exact_and_a_reset_one_keeps_the_optimizer(
    framework, switch, every, mix
):
    anchor = Anchor(coefficient=0.1, reference="synced", every=7, mix=0.3)
    found = export(Plan(anchor=anchor), framework, steps=20)
    assert (found.options[every], found.options[mix]) == (7, 0.3)
    assert switch is None or found.options[switch] is True
    assert set(found.fields.values()) == {"exact"}
    found = export(Plan(anchor=replace(anchor, reference="reset", mix=0.6)), framework, steps=20)
    assert found.options[mix] == 1.0
    assert found.fields["anchor.reference"] == "approximate"
    assert any("keeps the optimizer" in note for note in found.notes)


def test_warm_up_with_a_critic_counts_as_the_framework_counts():
    plan = Plan(warmup=Warmup(steps=5))
    for framework, option, value in (
        ("verl", "trainer.critic_warmup", 6),  # from this step on, counted from 1
        ("trinity", "trainer.critic_warmup", 6),
        ("openrlhf", "--critic.freezing_steps", 4),  # after this step, counted from 0
        ("nemo-rl", "ppo.policy_training_start_step", 5),
        ("slime", "--num-critic-only-steps", 5),
    ):
        found = export(plan, framework, steps=50, algorithm="ppo")
        assert found.options[option] == value, framework
        assert found.fields["warmup.steps"] == "exact", framework


def test_without_a_critic_the_learning_rate_warms_up_instead():
    found = export(Plan(warmup=Warmup(steps=5)), "openrlhf", steps=50)
    assert found.options["--actor.lr_warmup_ratio"] == 0.1
    assert found.fields["warmup.steps"] == "approximate"


TRAPS = {
    "verl": "actor without its adapter",
    "ms-swift": "--ref_adapters",
    "openrlhf": "merge an SFT adapter",
    "slime": "--ref-load must name pi_0",
    "open-instruct": "counts from 0",
    "rlinf": "embodied PPO and GRPO actor has no",
    "trl": "with its adapter merged",
}


@pytest.mark.parametrize("framework", TRAPS)
def test_an_anchor_comes_with_the_traps_of_its_reference(framework):
    warnings = export(Plan(anchor=Anchor()), framework, steps=10).warnings
    assert any(TRAPS[framework] in w for w in warnings)
    assert any("must be about 0" in w for w in warnings)
    assert not any(TRAPS[framework] in w for w in export(Plan(), framework, steps=10).warnings)


def test_k1_beside_the_loss_is_called_no_anchor():
    k1 = Plan(anchor=Anchor(estimator="k1"))
    in_reward = Plan(anchor=Anchor(estimator="k1", place="reward"))
    moved = "expected gradient of 0"
    assert any(moved in w for w in export(k1, "verl", steps=9).warnings)
    assert not any(moved in w for w in export(in_reward, "verl", steps=9).warnings)
    # Trinity's GRPO has no KL in rewards, so the KL is moved into the loss
    assert any(moved in w for w in export(in_reward, "trinity", steps=9).warnings)


def test_the_recipe_for_trl_is_the_plan_itself():
    plan = chain(
        Warmup(steps=3),
        Anchor(coefficient=Ramp(0.1, 0.0, steps=50, shape="cosine"), estimator="k2"),
        Replay(weight=Ramp(0.5, 0.02, steps=50), share=0.25, token_weight="luffy", gate="map"),
        Reset(parts=("optimizer",), every=10),
    )(Plan())
    read = yaml.safe_load(export(plan, "trl", steps=50).recipe)
    assert read["rl"] == {"algorithm": "grpo", "steps": 50}
    assert plan_from_dict({"interventions": read["interventions"]}) == plan


@settings(max_examples=50)
@given(plan=plans)
def test_any_plan_survives_the_recipe(plan):
    read = yaml.safe_load(export(plan, "trl", steps=50).recipe)
    assert plan_from_dict({"interventions": read["interventions"]}) == plan


def test_the_recipe_for_trl_is_read_by_posttrain_run():
    pytest.importorskip("trl")
    from posttrain.llm.settings import LlmRecipe
    from posttrain.recipe import load

    plan = Plan(replay=Replay(weight=Ramp(0.5, 0.02, steps=50), token_weight="chord"))
    text = export(plan, "trl", steps=50).recipe
    head = "kind: llm\nname: x\ndata: {path: a.jsonl}\nreward: {kind: exact}\n"
    recipe = load(LlmRecipe, head + text)
    assert chain(*recipe.interventions)(Plan()) == plan


def test_each_form_is_written_as_its_framework_reads_it():
    options = {"--a": True, "--b": False, "--c": 0.5}
    assert lines(options, "switches") == ["--a", "--c 0.5"]
    assert lines(options, "flags") == ["--a true", "--b false", "--c 0.5"]
    assert lines(options, "equals") == ["--a=true", "--b=false", "--c=0.5"]
    assert lines({"a.b": True, "a.c": 2}, "overrides") == ["a.b=True", "a.c=2"]
    tree = {"a": {"b": [{"x": 1}], "c": "none"}, "d": False}
    written = "\n".join(lines({"a.b": [{"x": 1}], "a.c": "none", "d": False}, "yaml"))
    assert yaml.safe_load(written) == tree


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"framework must be one of .*'verl'.* got 'vwrl'"):
        export(Plan(), "vwrl", steps=1)
    with pytest.raises(ValueError, match=r"LeRobot is exported with one of .*'sac'.*, got 'grpo'"):
        export(Plan(), "lerobot", steps=1, algorithm="grpo")
    with pytest.raises(ValueError, match="steps and responses must be >= 1"):
        export(Plan(), "verl", steps=0)


def test_idle_fields_are_named_as_without_effect():
    plan = Plan(anchor=Anchor(rate=0.3))
    assert idle(plan) == ("anchor.rate",)
    found = export(plan, "verl", steps=5)
    assert found.fields["anchor.rate"] == "without effect"
    assert "anchor.rate: changes nothing in this plan." in found.notes


def test_a_prescription_exports_itself():
    from posttrain.intervention.prescription import prescribe
    from posttrain.regime.diagnosis import diagnose

    best, *_ = prescribe(diagnose([0.0, 1.0, 1.0, 1.0, 1.0] * 40, [1.0] * 200), steps=200)
    found = best.export("ms-swift", steps=200)
    assert found.options["--chord_mu_peak"] == pytest.approx(0.5 / 1.5, rel=1e-5)
    assert found.to_dict()["framework"] == "ms-swift"
