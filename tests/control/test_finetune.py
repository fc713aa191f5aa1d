"""What a plan does to fine-tuning, on the smallest run there is."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny import read, tiny

from control import checkpoint, pipeline, population
from control.algorithm_settings import BcSettings, SacSettings
from control.intervene import PlanError
from control.settings import FinetuneSettings
from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup
from posttrain.record import Record

SHORT = ("finetune.steps=24", "finetune.eval_every=12", "finetune.log_every=4")


def recipe(folder, *plan, name="tiny", finetune=None, **fields):
    made = replace(tiny(folder, *SHORT), name=name, interventions=plan, **fields)
    return made if finetune is None else replace(made, finetune=replace(made.finetune, **finetune))


def weights(folder, which="rl"):
    return load_file(folder / which / "agent.safetensors")


def moved(folder, network="actor"):
    before, after = weights(folder, "pi0"), weights(folder)
    return any(
        not np.array_equal(before[k], after[k]) for k in after if k.startswith(f"{network}.")
    )


def rows(folder, key):
    return {r["step"]: r[key] for r in Record(folder).metrics.read() if key in r}


def test_pi0_does_not_move_while_it_warms_up_but_the_critic_learns(tmp_path):
    folder = pipeline.run(recipe(tmp_path, Warmup(steps=24)))
    assert not moved(folder)
    assert moved(folder, "critic")
    assert set(rows(folder, "regime/kl_to_pi0").values()) == {0.0}


def test_a_critic_that_waits_does_not_move_either(tmp_path):
    waits = recipe(tmp_path, Warmup(steps=24), finetune={"warmup_critic": "waits"})
    folder = pipeline.run(waits)
    assert not moved(folder)
    assert not moved(folder, "critic")


def test_without_a_plan_the_policy_leaves_pi0(tmp_path):
    folder = pipeline.run(recipe(tmp_path))
    distance = rows(folder, "regime/kl_to_pi0")
    assert distance[0] == 0 < distance[24]


@pytest.mark.parametrize("term", ["kl", "bc"])
def test_a_heavy_anchor_holds_the_policy_at_pi0(tmp_path, term):
    free = rows(pipeline.run(recipe(tmp_path, name="free")), "regime/kl_to_pi0")[24]
    anchor = Anchor(coefficient=100.0, term=term, estimator="exact")
    held = rows(pipeline.run(recipe(tmp_path, anchor, name="held")), "regime/kl_to_pi0")
    assert held[24] < free / 3


def test_imitation_of_data_lowers_its_negative_log_likelihood(tmp_path):
    free = rows(pipeline.run(recipe(tmp_path, name="free")), "regime/nll_on_data")[24]
    folder = pipeline.run(recipe(tmp_path, Replay(weight=100.0), name="near"))
    assert rows(folder, "regime/nll_on_data")[24] < free
    assert set(rows(folder, "regime/replay_weight").values()) == {100.0}


def test_a_reset_policy_is_no_longer_pi0_and_a_reset_critic_is_new(tmp_path):
    plan = (Reset(parts=("policy", "critic")), Replay(share=0.5))
    slow = {"algorithm": replace(tiny(tmp_path).finetune.algorithm, actor_lr=1e-9, critic_lr=1e-9)}
    folder = pipeline.run(recipe(tmp_path, *plan, finetune=slow))
    before, after = weights(folder, "pi0"), weights(folder)
    for name in ("actor.trunk.dense.0.weight", "critic.trunk.dense.0.weight"):
        assert (before[name] - after[name]).abs().max() > 0.01


def test_resets_repeat(tmp_path):
    plan = (Reset(parts=("head",), every=8), Replay(share=0.5))
    slow = {"algorithm": replace(tiny(tmp_path).finetune.algorithm, actor_lr=1e-9)}
    folder = pipeline.run(recipe(tmp_path, *plan, finetune=slow))
    distance = rows(folder, "regime/kl_to_pi0")
    assert distance[4] < 1e-3 < min(distance[8], distance[16])
    assert distance[8] != distance[16]
    assert distance[24] == pytest.approx(distance[20], rel=1e-3)  # not after the last update


def test_members_with_different_anchors_draw_their_own_noise(tmp_path):
    base = tiny(tmp_path, *SHORT)
    cloned = replace(base.pretrain, algorithm=BcSettings())
    sac = replace(base.finetune, algorithm=SacSettings(gamma=0.5, actor_lr=1e-2), batch=32)
    base = replace(
        base, networks=replace(base.networks, policy="gaussian"), pretrain=cloned, finetune=sac
    )
    pair = [
        replace(base, name=kind, interventions=(Anchor(coefficient=10.0, estimator=kind),))
        for kind in ("k1", "k3")
    ]
    together = pipeline.run_many(pair)
    for mine, alone in zip(together, pair, strict=True):
        theirs = pipeline.run(replace(alone, output=str(tmp_path / "alone")))
        a, b = weights(mine), weights(theirs)
        assert all(np.allclose(a[k], b[k], atol=1e-4) for k in a)


def test_an_anchor_with_a_target_grows_while_the_policy_is_too_far(tmp_path):
    anchor = Anchor(coefficient=1.0, estimator="exact", target=1e-12, rate=0.5)
    steered = recipe(tmp_path, anchor, name="steered")
    folder, plain = pipeline.run_many([steered, recipe(tmp_path, name="plain")])
    used = [rows(folder, "regime/anchor")[step] for step in (0, 4, 8, 12, 16, 20, 24)]
    assert used[0] == 1.0
    # The first update finds the policy at pi_0 (times 0.9); every other one finds it too far.
    powers = [np.log(u / 0.9) / np.log(1.1) for u in used if u != 1.0]
    assert powers == pytest.approx([round(power) for power in powers], abs=1e-6)
    assert powers == sorted(powers)
    assert powers[-1] >= 5
    alone = pipeline.run(replace(steered, output=str(tmp_path / "alone")))
    assert rows(alone, "regime/anchor") == pytest.approx(rows(folder, "regime/anchor"))
    assert set(rows(plain, "regime/anchor").values()) == {0.0}


def test_a_steered_anchor_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    anchor = Anchor(coefficient=1.0, estimator="exact", target=0.05, rate=0.9)
    unbroken = pipeline.run(recipe(tmp_path, anchor, name="whole", finetune={"save_every": 8}))
    broken = recipe(tmp_path, anchor, name="broken", finetune={"save_every": 8})
    advance = population.Population.advance

    def killed(self):
        if self.step == 22:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(population.Population, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(broken)
    resumed = pipeline.run(broken)
    assert rows(resumed, "regime/anchor") == rows(unbroken, "regime/anchor")
    mine, theirs = weights(resumed), weights(unbroken)
    assert all(np.array_equal(mine[k], theirs[k]) for k in theirs)


def test_shrunk_weights_are_between_old_and_new(tmp_path):
    slow = {"algorithm": replace(tiny(tmp_path).finetune.algorithm, actor_lr=1e-9)}
    plan = (Reset(how="shrink_perturb", keep=0.5, noise=0.0), Replay(share=0.5))
    folder = pipeline.run(recipe(tmp_path, *plan, finetune=slow))
    before, after = weights(folder, "pi0"), weights(folder)
    name = "actor.trunk.dense.0.weight"
    np.testing.assert_allclose(after[name], 0.5 * before[name], atol=1e-5)


def test_interpolation_moves_towards_the_policy_before_pretraining(tmp_path):
    slow = {"algorithm": replace(tiny(tmp_path).finetune.algorithm, actor_lr=1e-9)}
    name = "actor.trunk.dense.0.weight"
    found = {}
    for keep in (0.0, 0.5, 1e-3):
        plan = (Reset(how="interpolate", keep=keep), Replay(share=0.5))
        folder = pipeline.run(recipe(tmp_path, *plan, name=f"keep{keep}", finetune=slow))
        found[keep], pi0 = weights(folder)[name], weights(folder, "pi0")[name]
    np.testing.assert_allclose(found[0.5], 0.5 * (found[0.0] + pi0), atol=1e-5)
    np.testing.assert_allclose(found[1e-3], found[0.0], atol=1e-2)


def test_the_diagnosis_episodes_count_as_warm_up(tmp_path):
    plan = (Warmup(steps=12),)
    folder = pipeline.run(recipe(tmp_path, *plan, finetune={"diagnosis_episodes": True}))
    assert moved(folder)  # 6 episodes of pi_0 are more than 12 steps
    apart = pipeline.run(recipe(tmp_path, Warmup(steps=24), name="apart"))
    assert not moved(apart)


def test_more_training_without_rl_touches_no_environment(tmp_path):
    for kind in ("bc", "offline"):
        folder = pipeline.run(recipe(tmp_path, name=kind, finetune={"supervised": kind}))
        assert moved(folder)
        assert not rows(folder, "reward")
    with pytest.raises(PlanError, match=r"finetune\.supervised.*'replay'"):
        pipeline.run(
            recipe(tmp_path, Replay(share=0.5), name="both", finetune={"supervised": "bc"})
        )


def test_a_clone_brings_no_critic_and_one_is_trained_first(tmp_path):
    alone = {"critic_first": 5, "steps": 12, "eval_every": 12}
    base = tiny(tmp_path)
    cloned = replace(base.pretrain, algorithm=BcSettings())
    folder = pipeline.run(recipe(tmp_path, Warmup(steps=12), pretrain=cloned, finetune=alone))
    assert "critic.head.weight" not in weights(folder, "pi0")
    assert "critic.head.weight" in weights(folder)


def test_a_new_critic_is_trained_alone_when_there_is_something_to_learn_from(tmp_path):
    cloned = replace(tiny(tmp_path).pretrain, algorithm=BcSettings())
    found = {}
    for warm in ((), (Warmup(steps=15),)):
        late = recipe(
            tmp_path, *warm, name=f"late{len(warm)}", pretrain=cloned,
            finetune={"critic_first": 7, "start": 10, "warmup_critic": "waits", "steps": 20},
        )  # fmt: skip
        seen = []
        original = population.Population._critic_alone

        def spy(self, m, seen=seen, original=original):
            seen.append((self.step, self.storage.size(m), self.updates[m]))
            original(self, m)
            assert self.updates[m] == 7

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(population.Population, "_critic_alone", spy)
            pipeline.run(late)
        found[len(warm)] = seen
    assert found == {0: [(9, 10, 0)], 1: [(15, 16, 0)]}


def test_the_regulariser_of_cloning_is_td3_bc_and_needs_td3(tmp_path):
    cloned = replace(tiny(tmp_path).pretrain, algorithm=BcSettings())
    kept = recipe(tmp_path, pretrain=cloned, finetune={"regulariser": "keep"})
    assert rows(pipeline.run(kept), "distance")
    gaussian = replace(tiny(tmp_path).networks, policy="gaussian")
    other = replace(kept, name="other", networks=gaussian)
    other = replace(other, finetune=replace(other.finetune, algorithm=SacSettings()))
    with pytest.raises(ValueError, match=r"finetune\.regulariser.*'sac'"):
        pipeline.run(other)


@pytest.mark.parametrize("kind", ["pex", "ibrl"])
def test_a_rival_keeps_what_pi0_can_do_in_reach(tmp_path, kind):
    plan = (Reset(parts=("policy",)), Replay(share=0.5))
    lost = pipeline.run(recipe(tmp_path, *plan, name="lost"))
    beside = pipeline.run(recipe(tmp_path, *plan, name=kind, finetune={"proposal": kind}))
    other, same = weights(beside), weights(lost)
    assert not np.allclose(other["critic.head.weight"], same["critic.head.weight"])
    stuck = replace(tiny(tmp_path).pretrain.algorithm)
    refused = recipe(tmp_path, name="no", finetune={"proposal": kind, "algorithm": stuck})
    with pytest.raises(ValueError, match=rf"finetune\.proposal: '{kind}'.*Td3Bc"):
        pipeline.run(refused)


def test_several_updates_a_step_take_several_batches(tmp_path):
    once = pipeline.run(recipe(tmp_path, name="once"))
    often = pipeline.run(recipe(tmp_path, name="often", finetune={"utd": 4}))
    assert rows(often, "regime/kl_to_pi0")[24] > rows(once, "regime/kl_to_pi0")[24]


def test_a_killed_gaussian_run_with_everything_on_ends_as_the_unbroken_one(tmp_path):
    plan = (
        Warmup(steps=6), Anchor(coefficient=0.1, estimator="k3"),
        Replay(weight=0.1, share=0.25), Reset(parts=("optimizer",), every=7),
    )  # fmt: skip
    sac = FinetuneSettings(
        algorithm=SacSettings(gamma=0.5, policy_delay=2), steps=24, batch=8, utd=2, start=4,
        eval_every=12, eval_episodes=2, log_every=4, save_every=5, capacity=15, proposal="pex",
    )  # fmt: skip
    base = tiny(tmp_path)
    networks = replace(base.networks, policy="gaussian", critics=3)
    cloned = replace(base.pretrain, algorithm=BcSettings())
    whole = replace(
        base, name="tiny", networks=networks, pretrain=cloned, interventions=plan, finetune=sac,
        output=str(tmp_path / "whole"),
    )  # fmt: skip
    folder = pipeline.run(whole)
    broken = replace(whole, output=str(tmp_path / "broken"))
    stopped = stop_after_checkpoint(broken, at=11)
    assert stopped == 10
    assert read(pipeline.run(broken)) == read(folder)


def stop_after_checkpoint(settings, *, at):
    """Let fine-tuning die at a step, and say what its last checkpoint had done."""

    class KilledError(Exception):
        pass

    advance = population.Population.advance

    def dying(self):
        if self.step == at:
            raise KilledError
        return advance(self)

    population.Population.advance = dying
    try:
        with pytest.raises(KilledError):
            pipeline.run(settings)
    finally:
        population.Population.advance = advance
    folder = pipeline.folder_of(settings)
    return checkpoint.step_of(folder / "checkpoints" / "finetune")
