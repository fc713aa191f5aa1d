"""Members as views, Adam with members left out, targets, noise, resets of one member, files."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from populations import (
    DETERMINISTIC,
    EVERY,
    GAUSSIAN,
    NORMED,
    moments,
    random_batch,
    start,
    weights,
)
from torch import Tensor, nn

from control.agent import Agent, hand_over_, load, save
from control.stepper import MemberState, Stepper, follow_
from control.streams import Streams
from posttrain.intervention.parts import ResetError
from posttrain.intervention.plan import How, Part, Reset
from posttrain.intervention.reset import apply_reset

SEEDS = (5, 11, 3)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {k for k, v in after.items() if not torch.equal(v, before[k])}


def agent_of(members: int, **settings: object) -> Agent:
    return Agent(replace(GAUSSIAN, **settings), 3, 2, members=members, value=True, temperature=0.5)


# Members


def test_a_view_and_its_agent_share_every_weight_and_no_other_member_s() -> None:
    agent = agent_of(3).draw_(SEEDS)
    views = [agent.member(m) for m in range(3)]
    before = [weights(v) for v in views]
    with torch.no_grad():
        for p in views[1].parameters():
            p.add_(1)
    assert changed(before[0], weights(views[0])) == set()
    assert changed(before[2], weights(views[2])) == set()
    names = {n for n, _ in agent.named_parameters()}
    assert changed(before[1], weights(views[1])) == names
    assert changed(before[1], weights(agent.member(1))) == names
    with torch.no_grad():
        agent.critic.head.bias.zero_()
    assert all((v.critic.head.bias == 0).all() for v in views)


def test_a_view_computes_what_the_population_computes_for_it() -> None:
    agent = agent_of(3, critics=3, critic_norm=True).draw_(SEEDS)
    batch = random_batch(3)
    values = agent.critic(batch.observations, batch.actions)
    policy = agent.actor(batch.observations)
    for m in range(3):
        view, one = agent.member(m), slice(m, m + 1)
        mine = view.critic(batch.observations[one], batch.actions[one])
        torch.testing.assert_close(mine, values[one])
        torch.testing.assert_close(view.actor(batch.observations[one]).mode(), policy.mode()[one])


def test_there_is_no_member_beyond_the_last() -> None:
    with pytest.raises(IndexError, match=r"\[0, 2\), got 2"):
        agent_of(2).member(2)


def test_a_member_s_weights_depend_on_its_own_seed_alone() -> None:
    agent = agent_of(3).draw_(SEEDS)
    for m, seed in enumerate(SEEDS):
        alone = agent_of(1).draw_([seed])
        assert changed(weights(alone), weights(agent.member(m))) == set()
    with pytest.raises(ValueError, match=r"seeds: wanted one a member \(3\), got 2"):
        agent.draw_([0, 1])


def test_drawing_leaves_the_global_generator_as_it_was_and_targets_follow() -> None:
    state = torch.get_rng_state()
    agent = Agent(DETERMINISTIC, 3, 2, members=2, target_actor=True).draw_([0, 1])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, s) for t, s in agent.target_pairs())
    assert not any(t.requires_grad for t, _ in agent.target_pairs())
    assert len(agent.target_pairs()) == 12


# Adam


def losses(agent: Agent, batch: int) -> Tensor:
    x = random_batch(agent.members, seed=batch)
    return agent.critic(x.observations, x.actions).square().mean((1, 2))


def naive_adam(view: Agent) -> torch.optim.Adam:
    return torch.optim.Adam(view.critic.parameters(), lr=1e-2)


def test_stepping_is_adam_for_each_member_whoever_else_moves() -> None:
    """The reference: copies of the members with optimizers of their own, stepped or not."""
    agent = agent_of(3).draw_(SEEDS)
    alone = [copy.deepcopy(agent.member(m)) for m in range(3)]
    optimizers = [naive_adam(a) for a in alone]
    views = [agent.member(m) for m in range(3)]
    stepper = Stepper(agent, views, {"critic": 1e-2})
    turns = [(1, 1, 1), (1, 0, 1), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0, 0, 0), (1, 1, 1)]
    for i, turn in enumerate(turns):
        stepper.minimize(losses(agent, i).sum(), [bool(t) for t in turn])
        x = random_batch(3, seed=i)
        for m, (one, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            if turn[m]:
                part = slice(m, m + 1)
                loss = one.critic(x.observations[part], x.actions[part]).square().mean((1, 2))
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
    for one, view in zip(alone, views, strict=True):
        for mine, wanted in zip(view.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine, wanted)


def test_a_zero_gradient_would_have_moved_the_member_that_holds_still() -> None:
    """Why members are left out: the same with a loss of zero weight moves them on (momentum)."""
    agent = agent_of(2).draw_([0, 1])
    views = [agent.member(0), agent.member(1)]
    stepper = Stepper(agent, views, {"critic": 1e-2})
    stepper.minimize(losses(agent, 0).sum(), [True, True])
    before = weights(views[1])
    stepper.minimize(losses(agent, 1).sum(), [True, False])
    assert changed(before, weights(views[1])) == set()
    stepper.minimize((losses(agent, 1) * torch.tensor([1.0, 0.0])).sum(), [True, True])
    assert changed(before, weights(views[1])) != set()


def test_gradients_do_not_pile_up_over_steps_nor_over_steppers() -> None:
    """A policy's loss runs through the critic, whose next step must not feel it."""
    agent = agent_of(1).draw_([0])
    twin = agent_of(1).draw_([0])
    x = random_batch(1)
    for one, disturbed in ((agent, True), (twin, False)):
        views = [one.member(0)]
        critic = Stepper(one, views, {"critic": 1e-2})
        actor = Stepper(one, views, {"actor": 0.0})
        for i in range(3):
            if disturbed:
                climbed = one.critic(x.observations, one.actor(x.observations).mode())
                actor.minimize(-climbed.sum(), [True])
            critic.minimize(losses(one, i).sum(), [True])
    assert changed(weights(agent), weights(twin)) == set()


def test_each_network_has_its_own_learning_rate() -> None:
    agent = agent_of(1).draw_([0])
    before = weights(agent)
    stepper = Stepper(agent, [agent.member(0)], {"critic": 1e-3, "value": 1e-1})
    x = random_batch(1)
    loss = agent.critic(x.observations, x.actions).sum() + agent.value(x.observations).sum()
    stepper.minimize(loss, [True])
    after = weights(agent)
    for name, rate in (("critic.head.bias", 1e-3), ("value.head.bias", 1e-1)):
        torch.testing.assert_close((after[name] - before[name]).abs().max(), torch.tensor(rate))


# Targets and noise


def test_following_goes_tau_of_the_way_for_those_who_take_part() -> None:
    agent = agent_of(2).draw_([0, 1])
    views = [agent.member(0), agent.member(1)]
    with torch.no_grad():
        for target, source in agent.target_pairs():
            target.fill_(1)
            source.fill_(3)
    follow_(agent, views, 0.25, [True, False])
    assert all((t == 1.5).all() for t, _ in views[0].target_pairs())
    assert all((t == 1.0).all() for t, _ in views[1].target_pairs())
    follow_(agent, views, 0.5, [True, True])
    assert all((t == 2.25).all() for t, _ in views[0].target_pairs())
    assert not any(t.requires_grad for t, _ in agent.target_pairs())


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=6))
def test_a_member_draws_the_same_noise_whoever_else_draws(turns: list[list[bool]]) -> None:
    together = Streams(SEEDS)
    alone = [Streams([s]) for s in SEEDS]
    for i, turn in enumerate(turns):
        law = "normal" if i % 2 else "uniform"
        drawn = getattr(together.only(turn), law)(4, 2)
        for m, on in enumerate(turn):
            wanted = getattr(alone[m], law)(4, 2)[0] if on else torch.zeros(4, 2)
            assert torch.equal(drawn[m], wanted)


def test_noise_has_the_laws_that_it_is_named_after() -> None:
    streams = Streams([0, 1])
    normal, uniform = streams.normal(20_000), streams.uniform(20_000)
    assert (normal.mean(1).abs() < 0.03).all()
    assert ((normal.std(1) - 1).abs() < 0.03).all()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert ((uniform.mean(1) - 0.5).abs() < 0.01).all()
    assert (normal[0] * normal[1]).mean().abs() < 0.03


# Resets


def of(prefixes: Iterable[str], names: Iterable[str]) -> set[str]:
    return {n for n in names if n.startswith(tuple(prefixes))}


PARTS: list[tuple[str, tuple[Part, ...], int, tuple[str, ...]]] = [
    ("cal-ql", ("policy",), 1, ("actor.trunk", "actor.head")),
    ("cal-ql", ("critic",), 1, ("critic.",)),
    ("iql", ("critic",), 1, ("critic.", "value.")),
    ("cal-ql", ("head",), 1, ("actor.head",)),
    ("sac", ("last_layers",), 1, ("actor.head",)),
    ("sac", ("last_layers",), 2, ("actor.head", "actor.trunk.dense.1")),
    ("redq", ("last_layers",), 2, ("actor.head", "actor.trunk.dense.1")),
    ("td3_bc", ("policy", "critic"), 1, ("actor.trunk", "actor.head", "critic.")),
    ("td3_bc", ("policy", "optimizer"), 1, ("actor.trunk", "actor.head")),
    ("bc", ("policy",), 1, ("actor.trunk", "actor.head")),
]


@pytest.mark.parametrize("how", ["fresh", "shrink_perturb", "interpolate"])
@pytest.mark.parametrize(("name", "parts", "layers", "prefixes"), PARTS)
def test_a_reset_changes_its_parts_of_its_member_and_forgets_their_moments(
    name: str, parts: tuple[Part, ...], layers: int, prefixes: tuple[str, ...], how: How
) -> None:
    agent, views, learner = start(*EVERY[name], SEEDS)
    base = weights(views[1])
    for i in range(3):
        learner.update(random_batch(3, seed=i), critic=[True] * 3, actor=[True] * 3)
    before = [weights(v) for v in views]
    remembered = [moments(learner, v) for v in views]
    reset = Reset(parts=parts, how=how, layers=layers, keep=0.8)
    apply_reset(
        reset, views[1], seed=7, optimizer=MemberState(learner.steppers, 1), base_state=base
    )
    for m in (0, 2):
        assert changed(before[m], weights(views[m])) == set()
        assert changed(remembered[m], moments(learner, views[m])) == set()
    expected = of(prefixes, dict(agent.named_parameters()))
    assert changed(before[1], weights(views[1])) == expected
    left = moments(learner, views[1])
    forgotten = of(("",) if "optimizer" in parts else prefixes, remembered[1])
    assert left.keys() == remembered[1].keys() - forgotten
    learner.update(random_batch(3, seed=9), critic=[True] * 3, actor=[True] * 3)
    assert moments(learner, views[1]).keys() == remembered[1].keys()


def test_reset_weights_are_those_of_a_newly_drawn_member_or_lie_between() -> None:
    agent, views, learner = start(*EVERY["sac"], SEEDS)
    learner.update(random_batch(3), critic=[True] * 3, actor=[True] * 3)
    old, fresh = weights(views[1]), weights(agent_of(1).draw_([7]))
    other = weights(views[2])
    key, forget = "actor.trunk.dense.0.weight", MemberState(learner.steppers, 1)
    shrink = Reset(parts=("policy",), how="shrink_perturb", keep=0.75, noise=0.5)
    apply_reset(shrink, views[1], seed=7, optimizer=forget)
    torch.testing.assert_close(weights(views[1])[key], 0.75 * old[key] + 0.5 * fresh[key])
    apply_reset(Reset(parts=("policy",)), views[1], seed=7, optimizer=forget)
    assert torch.equal(weights(views[1])[key], fresh[key])
    halfway = Reset(parts=("policy",), how="interpolate", keep=0.25)
    apply_reset(halfway, views[1], seed=7, optimizer=forget, base_state=other)
    torch.testing.assert_close(weights(views[1])[key], 0.25 * fresh[key] + 0.75 * other[key])
    assert torch.equal(agent.member(1).actor.trunk.dense[0].weight, views[1].state_dict()[key])


def test_forgetting_the_optimizer_alone_changes_no_weight() -> None:
    _, views, learner = start(*EVERY["sac"], SEEDS)
    learner.update(random_batch(3), critic=[True] * 3, actor=[True] * 3)
    before = weights(views[1])
    found = apply_reset(
        Reset(parts=("optimizer",)), views[1], seed=0, optimizer=MemberState(learner.steppers, 1)
    )
    assert found == ("optimizer",)
    assert changed(before, weights(views[1])) == set()
    assert moments(learner, views[1]) == {}
    assert moments(learner, views[0]) != {}


def test_a_policy_alone_has_no_critic_to_reset() -> None:
    _, views, learner = start(*EVERY["bc"], [0])
    with pytest.raises(ResetError, match="no child named critic"):
        apply_reset(
            Reset(parts=("critic",)), views[0], seed=0, optimizer=MemberState(learner.steppers, 0)
        )


def test_a_member_s_memory_is_a_mapping_of_its_own_weights_alone() -> None:
    _, views, learner = start(*EVERY["sac"], [0, 1])
    memory = MemberState(learner.steppers, 1)
    assert len(memory) == 0
    learner.update(random_batch(2), critic=[True] * 2, actor=[True] * 2)
    trained = {p for n, p in views[1].named_parameters() if not n.startswith("target_")}
    assert set(memory) == trained
    mine, theirs = views[1].actor.head.weight, views[0].actor.head.weight
    assert memory[mine]["step"] == 1
    assert theirs not in memory
    with pytest.raises(KeyError):
        memory.pop(theirs)
    del memory[mine]
    assert mine not in memory
    assert len(memory) == len(trained) - 1


# Files and hand-overs


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_member_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    _, views, learner = start(*EVERY[name], SEEDS)
    learner.update(random_batch(3), critic=[True] * 3, actor=[True] * 3)
    views[1].center.fill_(0.5)
    save(views[1], tmp_path / "agent", algorithm=name)
    found = load(tmp_path / "agent")
    assert found.members == 1
    assert weights(found).keys() == weights(views[1]).keys()
    assert changed(weights(views[1]), weights(found)) == set()


def test_only_a_lone_member_is_saved_and_only_a_saved_one_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one member at a time, got 2"):
        save(agent_of(2), tmp_path / "agent")
    with pytest.raises(ValueError, match=r"wanted a saved agent \(agent.json\), found none"):
        load(tmp_path)


def test_handing_over_gives_what_both_have_and_syncs_the_targets() -> None:
    old = agent_of(1).draw_([0])
    old.center.fill_(2)
    new = Agent(GAUSSIAN, 3, 2, temperature=1.0).draw_([1])
    assert hand_over_(old, new) == ("actor", "critic", "temperature")
    assert all(torch.equal(t, s) for t, s in new.target_pairs())
    assert torch.equal(new.critic.head.weight, old.critic.head.weight)
    assert (new.center == 2).all()
    before = weights(old)
    nn.init.zeros_(new.critic.head.weight)
    assert changed(before, weights(old)) == set()


def test_a_clone_brings_no_critic_and_a_fresh_critic_is_kept_where_asked_for() -> None:
    clone = Agent(GAUSSIAN, 3, 2, critic=False).draw_([0])
    new = Agent(GAUSSIAN, 3, 2, temperature=1.0).draw_([1])
    before = weights(new)
    assert hand_over_(clone, new) == ("actor",)
    moved = changed(before, weights(new))
    assert moved == of(("actor.trunk", "actor.head"), before)
    assert hand_over_(agent_of(1).draw_([3]), new, critic=False) == ("actor",)
    assert torch.equal(new.critic.head.weight, before["critic.head.weight"])


def test_networks_of_other_sizes_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"the pretrained critic does not fit.*\[2, 8, 1\]"):
        hand_over_(agent_of(1), agent_of(1, critic=(9, 8)))
    with pytest.raises(ValueError, match="the pretrained actor does not fit"):
        hand_over_(agent_of(1), Agent(NORMED, 3, 2))
