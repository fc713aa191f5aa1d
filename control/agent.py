"""An agent: the networks of M members, one member's view of them, and how it is kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from control.algorithm_settings import NetworkSettings
from control.networks import Actor, Critic, Scalar, Value
from posttrain.intervention.reset import reinitialize_
from posttrain.record import replacing_folder, write_text


class Agent(nn.Module):
    """Networks of M members; what an algorithm does not use is None.

    Targets follow their originals and are never trained. `center` and `scale` normalise
    observations, the same for all members.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        networks: NetworkSettings,
        observation: int,
        action: int,
        *,
        members: int = 1,
        critic: bool = True,
        target_actor: bool = False,
        value: bool = False,
        temperature: float | None = None,
        penalty: float | None = None,
    ) -> None:
        """Build the networks; `draw_` gives them weights.

        Args:
            networks: sizes and kind of policy.
            observation: width of an observation.
            action: width of an action.
            members: runs side by side.
            critic: action values and their targets.
            target_actor: a slow copy of the policy, as TD3 has.
            value: state values, as IQL has.
            temperature: initial weight of the entropy, as SAC has.
            penalty: initial weight of a learnt constraint, as CQL may have.
        """
        super().__init__()
        n = networks
        self.networks, self.observation, self.action = n, observation, action
        self.members = members
        self.actor = Actor(
            members, observation, action, n.actor, kind=n.policy, norm=n.actor_norm, spread=n.spread
        )
        self.critic = self.target_critic = None
        if critic:
            width = observation + action
            self.critic = Critic(members, n.critics, width, n.critic, norm=n.critic_norm)
            self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_actor = (
            copy.deepcopy(self.actor).requires_grad_(False) if target_actor else None
        )
        self.value = Value(members, observation, n.critic, norm=n.critic_norm) if value else None
        self.temperature = None if temperature is None else Scalar(members, temperature)
        self.penalty = None if penalty is None else Scalar(members, penalty)
        self.register_buffer("center", torch.zeros(observation))
        self.register_buffer("scale", torch.ones(observation))

    def draw_(self, seeds: Sequence[int]) -> Agent:
        """Draw each member's weights from its own seed, and copy them into the targets."""
        _require_one_each("seeds", seeds, self.members)
        for m, seed in enumerate(seeds):
            view = self.member(m)
            fresh = {n: c for n, c in view.named_children() if not n.startswith("target_")}
            reinitialize_(fresh, seed=seed)
            view.sync_targets_()
        return self

    @torch.no_grad()
    def sync_targets_(self) -> None:
        """Make the targets equal to what they follow, as after a reset or a hand-over."""
        for target, source in self.target_pairs():
            target.copy_(source)

    def target_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each target weight with the weight it follows."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for name in ("critic", "actor"):
            target, source = getattr(self, f"target_{name}"), getattr(self, name)
            if target is not None:
                pairs += zip(target.parameters(), source.parameters(), strict=True)
        return pairs

    def member(self, m: int) -> Agent:
        """Member m as an agent of one, whose weights are this agent's own: change one, change both.

        Raises:
            IndexError: no such member.
        """
        if not 0 <= m < self.members:
            raise IndexError(f"member must lie in [0, {self.members}), got {m}")
        view = copy.deepcopy(self)
        view.members = 1
        for mine, whole in zip(view.parameters(), self.parameters(), strict=True):
            each = whole.shape[0] // self.members
            mine.data = whole.data[m * each : (m + 1) * each]
            mine.grad = None
        return view

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations as the networks want them."""
        return (observations - self.center) / self.scale

    def networks_of(self, *names: str) -> list[nn.Module]:
        """The named networks that this agent has."""
        return [m for m in (getattr(self, name) for name in names) if m is not None]


def save(agent: Agent, folder: Path, **facts: Any) -> None:
    """Write a lone member's weights and what is needed to build it again, atomically.

    Args:
        agent: of one member.
        folder: replaced as a whole.
        facts: further JSON values for `agent.json`, such as the algorithm's name.
    """
    if agent.members != 1:
        raise ValueError(f"save takes one member at a time, got {agent.members}")
    with replacing_folder(Path(folder)) as here:
        state = {name: t.detach().cpu().contiguous() for name, t in agent.state_dict().items()}
        save_file(state, here / "agent.safetensors")
        write_text(here / "agent.json", json.dumps({**describe(agent), **facts}, indent=2) + "\n")


def describe(agent: Agent) -> dict[str, Any]:
    """What builds an agent of this shape again."""
    return {
        "networks": asdict(agent.networks),
        "observation": agent.observation,
        "action": agent.action,
        "critic": agent.critic is not None,
        "target_actor": agent.target_actor is not None,
        "value": agent.value is not None,
        "temperature": None if agent.temperature is None else agent.temperature.initial,
        "penalty": None if agent.penalty is None else agent.penalty.initial,
    }


def load(folder: Path) -> Agent:
    """Read what `save` wrote.

    Raises:
        ValueError: a file is missing or does not fit the other.
    """
    folder = Path(folder)
    if not (folder / "agent.json").exists():
        raise ValueError(f"{folder}: wanted a saved agent (agent.json), found none")
    about = json.loads((folder / "agent.json").read_text())
    keys = ("critic", "target_actor", "value", "temperature", "penalty")
    agent = Agent(
        NetworkSettings(**about["networks"]),
        about["observation"],
        about["action"],
        **{key: about[key] for key in keys},
    )
    agent.load_state_dict(load_file(folder / "agent.safetensors"))
    return agent


@torch.no_grad()
def hand_over_(source: Agent, into: Agent, *, critic: bool = True) -> tuple[str, ...]:
    """Give the networks of a pretrained agent to a new one, and sync the new one's targets.

    What only one of the two has stays as it is: a policy from cloning brings no critic.

    Args:
        source: one member.
        into: one member, already drawn.
        critic: whether the action values are handed over too.

    Returns:
        Names of the networks that were handed over.

    Raises:
        ValueError: the sizes differ, with both.
    """
    names = ["actor", *(["critic", "value", "temperature", "penalty"] if critic else [])]
    given = []
    for name in names:
        old, new = getattr(source, name), getattr(into, name)
        if old is None or new is None:
            continue
        theirs, mine = old.state_dict(), new.state_dict()
        wrong = [k for k in mine if k not in theirs or theirs[k].shape != mine[k].shape]
        if wrong or len(theirs) != len(mine):
            raise ValueError(
                f"the pretrained {name} does not fit the new one: {_sizes(theirs)} handed over, "
                f"{_sizes(mine)} wanted; give fine-tuning the networks of pretraining"
            )
        for k, value in theirs.items():
            mine[k].copy_(value)
        given.append(name)
    into.center.copy_(source.center)
    into.scale.copy_(source.scale)
    into.sync_targets_()
    return tuple(given)


def _sizes(state: dict[str, Tensor]) -> str:
    return ", ".join(f"{k} {list(v.shape)}" for k, v in state.items() if v.dim() > 1)


def _require_one_each(name: str, values: Sequence[Any], members: int) -> None:
    if len(values) != members:
        raise ValueError(f"{name}: wanted one a member ({members}), got {len(values)}")
