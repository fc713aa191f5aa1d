"""SAC: the target by hand, the random subset's law, the temperature, members, a naive reference."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.nn import functional as F

from control import sac
from control.agent import Agent
from control.algorithm_settings import ActorValue, NetworkSettings, SacSettings
from control.networks import LOG_STD, Actor, Critic
from control.sac import Sac, smallest, some, target
from control.storage import Batch
from control.streams import Streams

SMALL = NetworkSettings(actor=(8, 8), critic=(8, 8), critics=3, critic_norm=True)


def random_batch(members: int, rows: int, seed: int, *, observation: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(members, rows, *shape, generator=draw)

    return Batch(
        observations=normal(observation),
        actions=torch.tanh(normal(2)),
        rewards=normal(),
        masks=(normal() > -1).float(),
        returns=normal(),
        next_observations=normal(observation),
        next_actions=torch.tanh(normal(2)),
    )


def of_member(batch: Batch, m: int) -> Batch:
    return Batch(**{f.name: getattr(batch, f.name)[m : m + 1] for f in fields(Batch)})


def together(*batches: Batch) -> Batch:
    return Batch(
        **{f.name: torch.cat([getattr(b, f.name) for b in batches], 1) for f in fields(Batch)}
    )


def started(
    algorithm: SacSettings, seeds: list[int], networks: NetworkSettings = SMALL
) -> tuple[Agent, Sac]:
    agent = sac.build(networks, 3, 2, len(seeds), temperature=algorithm.temperature).draw_(seeds)
    views = [agent.member(m) for m in range(len(seeds))]
    return agent, Sac.start(agent, algorithm, views, [s + 100 for s in seeds])


def weights(agent: Agent) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in agent.state_dict().items()}


def constant_critics(agent: Agent, values: list[float]) -> None:
    """Critic k answers values[k] whatever it is asked; the policy is N(0, e^-1.5) before tanh."""
    assert agent.target_critic is not None
    with torch.no_grad():
        for p in agent.parameters():
            p.zero_()
        agent.target_critic.head.bias.copy_(torch.tensor(values).view(-1, 1, 1))


# The target


def test_target_is_the_reward_and_the_discounted_smallest_value_by_hand() -> None:
    agent, _ = started(SacSettings(), [0], replace(SMALL, critic_norm=False))
    constant_critics(agent, [3.0, 2.0, 5.0])
    batch = replace(
        random_batch(1, 2, 0), rewards=torch.tensor([[1.0, -1.0]]), masks=torch.tensor([[1.0, 0.0]])
    )
    found = target(agent, SacSettings(gamma=0.5), Streams([0]), batch)
    assert found.tolist() == [[2.0, -1.0]]  # 1 + 0.5 * 2; nothing follows an end


def test_entropy_enters_the_backup_with_the_temperature_by_hand() -> None:
    agent, _ = started(SacSettings(), [0], replace(SMALL, critic_norm=False))
    constant_critics(agent, [3.0, 2.0, 5.0])
    with torch.no_grad():
        agent.temperature.log.fill_(math.log(0.25))
    batch = replace(random_batch(1, 1, 0), rewards=torch.ones(1, 1), masks=torch.ones(1, 1))
    found = target(agent, SacSettings(gamma=0.5, backup_entropy=True), Streams([5]), batch)
    log_prob = 0.0
    for noise in torch.randn(2, generator=torch.Generator().manual_seed(5)).tolist():
        u = math.exp(-1.5) * noise
        density = math.exp(-0.5 * noise**2) / (math.exp(-1.5) * math.sqrt(2 * math.pi))
        log_prob += math.log(density / (1 - math.tanh(u) ** 2))
    assert log_prob > 0  # a policy this narrow: entropy is a cost here
    assert found.item() == pytest.approx(1 + 0.5 * (2 - 0.25 * log_prob), rel=1e-5)


# The random subset


def test_smallest_of_two_among_four_follows_the_law_of_draws_without_replacement() -> None:
    values = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    streams = Streams([0])
    found = Counter(int(smallest(values, 2, streams)) for _ in range(3000))
    assert found[3] == 0  # two different critics: the largest is never the smallest
    for rank, share in ((0, 3 / 6), (1, 2 / 6), (2, 1 / 6)):
        assert found[rank] / 3000 == pytest.approx(share, abs=4 * math.sqrt(0.25 / 3000))


@given(k=st.integers(1, 6), data=st.data(), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_larger_subset_is_never_more_optimistic_on_the_whole(
    k: int, data: st.DataObject, seed: int
) -> None:
    subset = data.draw(st.integers(1, k))
    values = torch.randn(2, k, 5, generator=torch.Generator().manual_seed(seed))
    some = smallest(values, subset, Streams([seed, seed + 1]))
    assert (some >= values.amin(1)).all()
    kth = values.sort(1, descending=True).values[:, subset - 1]
    assert (some <= kth).all()  # at best the subset's own number from the top
    assert torch.equal(smallest(values, k, Streams([0, 0])), values.amin(1))


def test_all_rows_of_a_member_look_at_the_same_critics_and_members_choose_alone() -> None:
    values = torch.arange(5.0).view(1, 5, 1).expand(2, 5, 7)
    streams = Streams([1, 2])
    found = torch.stack([smallest(values, 2, streams) for _ in range(50)])
    assert (found == found[..., :1]).all()
    assert (found[:, 0, 0] != found[:, 1, 0]).any()


@pytest.mark.parametrize("subset", [1, 2, None])
def test_the_critics_drawn_answer_as_they_do_among_all(subset: int | None) -> None:
    agent, _ = started(SacSettings(), [0, 1])
    batch = random_batch(2, 16, 0)
    before = weights(agent)
    inputs = batch.observations, batch.actions
    with torch.no_grad():
        every = agent.critic(*inputs)
        for draw in range(5):
            few = some(agent.critic, subset, Streams([draw, draw + 1]))(*inputs)
            assert few.shape == (2, subset or 3, 16)
            wanted = smallest(every, subset, Streams([draw, draw + 1]))
            torch.testing.assert_close(few.amin(1), wanted)
    assert agent.critic.k == 3
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())


# The temperature


@pytest.mark.parametrize(("wanted", "direction"), [(50.0, 1), (-50.0, -1)])
def test_temperature_rises_where_the_policy_is_too_certain(wanted: float, direction: int) -> None:
    agent, learner = started(SacSettings(target_entropy=wanted), [0, 1])
    metrics = learner.update(random_batch(2, 16, 0), critic=[True] * 2, actor=[True] * 2)
    assert (((agent.temperature() - 1) * direction) > 0).all()
    assert ((metrics["entropy"] - wanted) * direction < 0).all()


def test_temperature_settles_where_the_entropy_is_as_wanted() -> None:
    quick = SacSettings(temperature_lr=3e-2, actor_lr=3e-3, temperature=0.01, target_entropy=-1.0)
    _, learner = started(quick, [0])
    entropies = [
        learner.update(random_batch(1, 64, step), critic=[False], actor=[True])["entropy"].item()
        for step in range(400)
    ]
    assert abs(entropies[0] + 1) > 1
    assert sum(entropies[-50:]) / 50 == pytest.approx(-1.0, abs=0.3)


# Members


def test_a_member_among_others_gets_the_bits_it_would_have_had_alone() -> None:
    algorithm = SacSettings(subset=2, backup_entropy=True)
    agent, population = started(algorithm, [3, 4, 5])
    lone = [started(algorithm, [seed]) for seed in (3, 4, 5)]
    for step in range(5):
        batch = random_batch(3, 16, step)
        population.update(batch, critic=[True] * 3, actor=[True] * 3)
        for m, (_, learner) in enumerate(lone):
            learner.update(of_member(batch, m), critic=[True], actor=[True])
    for m, (alone, _) in enumerate(lone):
        for name, value in weights(agent.member(m)).items():
            assert torch.equal(value, alone.state_dict()[name]), name


def test_a_member_that_rests_is_as_if_nobody_had_called() -> None:
    algorithm = SacSettings(subset=2)
    agent, population = started(algorithm, [3, 4])
    lone = [started(algorithm, [seed]) for seed in (3, 4)]
    for step in range(6):
        batch = random_batch(2, 16, step)
        takes_part = [step not in {1, 2, 3}, step != 4]
        population.update(batch, critic=takes_part, actor=takes_part)
        for m, (_, learner) in enumerate(lone):
            if takes_part[m]:
                learner.update(of_member(batch, m), critic=[True], actor=[True])
    for m, (alone, _) in enumerate(lone):
        for name, value in weights(agent.member(m)).items():
            assert torch.equal(value, alone.state_dict()[name]), name


def test_policy_and_temperature_wait_while_only_the_critic_trains() -> None:
    agent, learner = started(SacSettings(), [0])
    before = weights(agent)
    learner.update(random_batch(1, 16, 0), critic=[True])
    moved = {n.split(".")[0] for n, v in weights(agent).items() if not torch.equal(v, before[n])}
    assert moved == {"critic", "target_critic"}
    before = weights(agent)
    learner.update(random_batch(1, 16, 1), critic=[False], actor=[True])
    moved = {n.split(".")[0] for n, v in weights(agent).items() if not torch.equal(v, before[n])}
    assert moved == {"actor", "temperature"}


# A naive reference: one run, one network after the other, torch's own distributions


def mlp(network: Critic | Actor, weights_of: dict[str, Tensor], k: int, x: Tensor) -> Tensor:
    for i in range(len(network.trunk.dense)):
        x = F.linear(x, weights_of[f"trunk.dense.{i}.weight"][k].T)
        x = x + weights_of[f"trunk.dense.{i}.bias"][k, 0]
        if network.trunk.dense[i].gain is not None:
            gain, offset = (weights_of[f"trunk.dense.{i}.{s}"][k, 0] for s in ("gain", "offset"))
            x = F.layer_norm(x, x.shape[-1:], gain, offset)
        x = torch.relu(x)
    return F.linear(x, weights_of["head.weight"][k].T) + weights_of["head.bias"][k, 0]


class Naive:
    """The algorithm of the paper, as plainly as it goes."""

    def __init__(self, agent: Agent, algorithm: SacSettings, seed: int) -> None:
        self.agent, self.s = agent, algorithm
        self.noise = torch.Generator().manual_seed(seed)
        self.actor, self.critic = (
            {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
            for net in (agent.actor, agent.critic)
        )
        self.targets = {n: p.detach().clone() for n, p in self.critic.items()}
        self.log_alpha = torch.tensor(math.log(algorithm.temperature), requires_grad=True)
        self.adams = [
            torch.optim.Adam(list(self.critic.values()), lr=algorithm.critic_lr),
            torch.optim.Adam(list(self.actor.values()), lr=algorithm.actor_lr),
            torch.optim.Adam([self.log_alpha], lr=algorithm.temperature_lr),
        ]

    def act(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = mlp(self.agent.actor, self.actor, 0, observations).chunk(2, -1)
        low, high = LOG_STD
        std = torch.exp(low + (high - low) * (torch.tanh(raw) + 1) / 2)
        base = Normal(mean, std)
        drawn = mean + std * torch.randn(mean.shape, generator=self.noise)
        policy = TransformedDistribution(base, [TanhTransform()])
        action = torch.tanh(drawn)
        return action, policy.log_prob(action).sum(-1)

    def values(self, weights_of: dict[str, Tensor], o: Tensor, a: Tensor) -> list[Tensor]:
        x = torch.cat([o, a], -1)
        return [mlp(self.agent.critic, weights_of, k, x)[:, 0] for k in range(self.agent.critic.k)]

    def update(self, batch: Batch, rows: Batch) -> None:
        s = self.s
        with torch.no_grad():
            action, log_prob = self.act(batch.next_observations[0])
            values = self.values(self.targets, batch.next_observations[0], action)
            worst = torch.stack(values).min(0).values - self.log_alpha.exp() * log_prob
            y = batch.rewards[0] + s.gamma * batch.masks[0] * worst
        found = self.values(self.critic, batch.observations[0], batch.actions[0])
        self.descend(0, sum(((q - y) ** 2).mean() for q in found))
        with torch.no_grad():
            for name, value in self.targets.items():
                self.targets[name] = (1 - s.tau) * value + s.tau * self.critic[name]
        action, log_prob = self.act(rows.observations[0])
        values = torch.stack(self.values(self.critic, rows.observations[0], action))
        climbed = {"first": values[0], "min": values.min(0).values, "mean": values.mean(0)}
        self.descend(1, (self.log_alpha.exp().detach() * log_prob - climbed[s.actor_value]).mean())
        gap = -log_prob.detach().mean() + self.agent.action
        self.descend(2, self.log_alpha.exp() * gap)

    def descend(self, which: int, loss: Tensor) -> None:
        for adam in self.adams:
            adam.zero_grad()
        loss.backward()
        self.adams[which].step()


@pytest.mark.parametrize("actor_value", ["first", "min", "mean"])
@pytest.mark.parametrize("norm", [False, True])
def test_updates_are_those_of_a_naive_reference(actor_value: ActorValue, norm: bool) -> None:
    algorithm = SacSettings(
        actor_value=actor_value, backup_entropy=True, tau=0.1, temperature=0.3,
        actor_lr=1e-3, critic_lr=2e-3, temperature_lr=3e-3,
    )  # fmt: skip
    networks = replace(SMALL, critic_norm=norm, actor_norm=norm)
    agent, learner = started(algorithm, [0], networks)
    naive = Naive(agent, algorithm, 100)
    for step in range(5):
        batch, more = random_batch(1, 16, step), random_batch(1, 16, 50 + step)
        rows = together(batch, more)
        learner.update(batch, critic=[True], actor=[True], rows=rows)
        naive.update(batch, rows)
    pairs = ("actor", naive.actor), ("critic", naive.critic), ("target_critic", naive.targets)
    for network, theirs in pairs:
        for name, value in getattr(agent, network).named_parameters():
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=name)
    assert agent.temperature().item() == pytest.approx(naive.log_alpha.exp().item(), rel=1e-5)


# What is refused


def test_a_deterministic_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"networks\.policy: SAC needs 'gaussian'"):
        sac.build(replace(SMALL, policy="deterministic"), 3, 2)


@pytest.mark.parametrize("subset", [0, 4])
def test_a_subset_that_the_ensemble_does_not_have_is_refused(subset: int) -> None:
    with pytest.raises(ValueError, match=r"subset: wanted a number from 1 to .*\(3\), got"):
        started(SacSettings(subset=subset), [0])
