"""What a learner is told to keep: interventions, and the plan they compose.

An intervention is a frozen value and a function from plans to plans; a plan has one slot
for each kind, and the default plan changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeAlias

from posttrain.intervention.ramp import Ramp, check_choice, ramp

Estimator: TypeAlias = Literal["k1", "k2", "k3", "exact"]
Term: TypeAlias = Literal["kl", "bc"]
Reference: TypeAlias = Literal["fixed", "synced", "reset"]
TokenWeight: TypeAlias = Literal["none", "chord", "dft", "luffy"]
Part: TypeAlias = Literal["policy", "critic", "head", "last_layers", "adapter", "optimizer"]
How: TypeAlias = Literal["fresh", "shrink_perturb", "interpolate"]
Place: TypeAlias = Literal["loss", "reward"]
Gate: TypeAlias = Literal["none", "map", "live"]
Family: TypeAlias = Literal["minimal", "pi0-centric", "D-centric", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Pull the policy towards a reference that starts as pi_0.

    `term` is what is penalised: the KL to the reference, or the cloning loss on its actions.
    The KL stands beside the loss, or is subtracted from the return before advantages are taken
    (`place`). With a `target`, in nats a token or action, the coefficient is only where it
    starts: each step it grows or shrinks by at most `rate` / 5, as the KL lies above or below the
    target (arXiv 1909.08593, section 2.2).

    `reference` stays `fixed`, is `synced` (moved to `mix` * policy + (1 - `mix`) * reference;
    arXiv 2404.09656), or `reset` (replaced by the policy, together with the optimizer; ProRL,
    arXiv 2505.24864) every `every` steps, or for a reset whenever the KL to it exceeds `trigger`.
    """

    coefficient: float | Ramp = 0.05
    term: Term = "kl"
    estimator: Estimator = "k3"
    place: Place = "loss"
    target: float | None = None
    rate: float = 0.1
    reference: Reference = "fixed"
    every: int = 0
    mix: float = 0.6
    trigger: float | None = None
    kind: Literal["anchor"] = "anchor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficient", ramp(self.coefficient))
        check_choice("Anchor.term", self.term, Term)
        check_choice("Anchor.estimator", self.estimator, Estimator)
        check_choice("Anchor.place", self.place, Place)
        check_choice("Anchor.reference", self.reference, Reference)
        self._check_reference()
        self._check_target()

    def _check_reference(self) -> None:
        if self.every < 0:
            raise ValueError(f"Anchor.every must be >= 0, got {self.every!r}")
        if (self.reference == "fixed") != (self.every == 0 and self.trigger is None):
            raise ValueError(
                f"Anchor.every is how often the reference moves: 0 with reference='fixed', "
                f">= 1 otherwise, unless a trigger resets it; got reference={self.reference!r}, "
                f"every={self.every!r}, trigger={self.trigger!r}"
            )
        if self.trigger is not None and (self.reference != "reset" or not self.trigger > 0):
            raise ValueError(
                f"Anchor.trigger is a KL above 0 that resets the reference: it needs "
                f"reference='reset'; got trigger={self.trigger!r}, reference={self.reference!r}"
            )
        if not 0 < self.mix <= 1:
            raise ValueError(f"Anchor.mix must lie in (0, 1], got {self.mix!r}")

    def _check_target(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"Anchor.rate must lie in (0, 1), got {self.rate!r}")
        if self.target is None:
            return
        if not (math.isfinite(self.target) and self.target > 0):
            raise ValueError(f"Anchor.target must be a finite KL > 0, got {self.target!r}")
        if self.term != "kl":
            raise ValueError(f"Anchor.target is a KL: it needs term='kl', got {self.term!r}")
        if ramp(self.coefficient).final != ramp(self.coefficient).start:
            raise ValueError(
                "Anchor.target steers the coefficient, so the coefficient must be a plain "
                f"number above 0; got {self.coefficient!r}"
            )
        if ramp(self.coefficient).start == 0:
            raise ValueError("Anchor.target needs a coefficient above 0 to start from, got 0")

    def __call__(self, plan: Plan, /) -> Plan:
        """Put this anchor into the plan's slot."""
        return replace(plan, anchor=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Keep learning from the dataset.

    `weight` multiplies an imitation loss on dataset batches, added to the RL loss with its own
    normaliser. `share` is the part of every RL batch (of every group, for group-relative
    methods) that is taken from the dataset. In a `prefix_share` of every group, rollouts start
    from the first part of the demonstration, `prefix` of its tokens, and the policy writes the
    rest (arXiv 2507.01679, 2505.16984). `token_weight` weighs the dataset's tokens, in the
    imitation loss and in the group.

    `gate="map"` lets the diagnosis' map decide unit by unit whether its demonstration is kept;
    `gate="live"` goes on with what the unit's latest rollouts say.
    """

    weight: float | Ramp = 0.0
    share: float | Ramp = 0.0
    prefix_share: float | Ramp = 0.0
    prefix: float | Ramp = 0.5
    token_weight: TokenWeight = "none"
    gate: Gate = "none"
    kind: Literal["replay"] = "replay"

    def __post_init__(self) -> None:
        for name in ("weight", "share", "prefix_share", "prefix"):
            object.__setattr__(self, name, ramp(getattr(self, name)))
        check_choice("Replay.token_weight", self.token_weight, TokenWeight)
        check_choice("Replay.gate", self.gate, Gate)
        for name in ("share", "prefix_share", "prefix"):
            if ramp(getattr(self, name)).peak > 1:
                raise ValueError(f"Replay.{name} must lie in [0, 1], got {getattr(self, name)!r}")
        if all(ramp(x).peak == 0 for x in (self.weight, self.share, self.prefix_share)):
            raise ValueError("Replay needs a weight, a share or a prefix_share above 0; all are 0")

    def __call__(self, plan: Plan, /) -> Plan:
        """Put this replay into the plan's slot."""
        return replace(plan, replay=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """Let pi_0 act for `steps` learner steps before its weights move (WSRL, arXiv 2412.07762).

    With a critic, the critic learns meanwhile. Without one, the optimizer's moments do.
    """

    steps: int = 10
    kind: Literal["warmup"] = "warmup"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Warmup.steps must be >= 1, got {self.steps!r}")

    def __call__(self, plan: Plan, /) -> Plan:
        """Put this warm-up into the plan's slot."""
        return replace(plan, warmup=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Give up part of pi_0 before (`every=0`) or during RL, to regain plasticity.

    `fresh` draws new weights. `shrink_perturb` keeps `keep` of each weight and adds `noise`
    times a fresh draw (Ash and Adams, arXiv 1910.08475). `interpolate` moves to
    `keep * policy + (1 - keep) * base` (LITI, arXiv 2406.16768).
    """

    parts: tuple[Part, ...] = ("policy",)
    how: How = "fresh"
    keep: float = 0.9
    noise: float = 0.1
    layers: int = 1
    every: int = 0
    kind: Literal["reset"] = "reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        check_choice("Reset.how", self.how, How)
        for part in self.parts:
            check_choice("Reset.parts", part, Part)
        if not self.parts:
            raise ValueError("Reset.parts must name at least one part, got none")
        if len(set(self.parts)) != len(self.parts):
            raise ValueError(f"Reset.parts names a part twice: {self.parts!r}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"Reset.keep must lie in [0, 1], got {self.keep!r}")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"Reset.noise must be a finite number >= 0, got {self.noise!r}")
        if self.layers < 1 or self.every < 0:
            raise ValueError(
                f"Reset needs layers >= 1 and every >= 0, got {self.layers!r} and {self.every!r}"
            )

    def __call__(self, plan: Plan, /) -> Plan:
        """Put this reset into the plan's slot."""
        return replace(plan, reset=self)


AnyIntervention: TypeAlias = Anchor | Replay | Warmup | Reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Instructions to a learner: one slot a kind. The default plan changes nothing."""

    anchor: Anchor | None = None
    replay: Replay | None = None
    warmup: Warmup | None = None
    reset: Reset | None = None

    @property
    def interventions(self) -> tuple[AnyIntervention, ...]:
        """The filled slots, in the order of the fields."""
        values = (getattr(self, f.name) for f in fields(self))
        return tuple(v for v in values if v is not None)

    @property
    def family(self) -> Family:
        """Which prior the plan keeps, in the paper's words."""
        pi0 = self.anchor is not None or self.warmup is not None
        data = self.replay is not None
        if pi0 and data:
            return "mixed"
        if pi0:
            return "pi0-centric"
        return "D-centric" if data or self.reset is not None else "minimal"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"interventions": [asdict(i) for i in self.interventions], "family": self.family}


class Intervention(Protocol):
    """A change of plan."""

    def __call__(self, plan: Plan, /) -> Plan:
        """Return the changed plan."""
        ...


@dataclass(frozen=True, slots=True)
class chain:  # noqa: N801 - reads as the function it is
    """Apply interventions from left to right; `chain()` changes nothing.

    >>> chain(Warmup(steps=5), Replay(weight=0.5))(Plan()).family
    'mixed'
    """

    interventions: tuple[Intervention, ...]

    def __init__(self, *interventions: Intervention) -> None:
        object.__setattr__(self, "interventions", interventions)

    def __call__(self, plan: Plan, /) -> Plan:
        """Apply each in turn."""
        for intervention in self.interventions:
            plan = intervention(plan)
        return plan


_KINDS: dict[str, type[AnyIntervention]] = {
    "anchor": Anchor,
    "replay": Replay,
    "warmup": Warmup,
    "reset": Reset,
}


def plan_from_dict(data: Mapping[str, Any]) -> Plan:
    """Rebuild a plan from `Plan.to_dict`, strictly.

    Raises:
        ValueError: an unknown kind or field, or a kind given twice, with its name.
    """
    if "interventions" not in data:
        raise ValueError(f"a plan needs the key 'interventions', got the keys {sorted(data)}")
    plan = Plan()
    for entry in data["interventions"]:
        intervention = _intervention(entry)
        if getattr(plan, intervention.kind) is not None:
            raise ValueError(f"interventions: {intervention.kind!r} is given twice")
        plan = intervention(plan)
    return plan


def _intervention(entry: Mapping[str, Any]) -> AnyIntervention:
    kind = entry.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"interventions: kind must be one of {sorted(_KINDS)}, got {kind!r}")
    _refuse_unknown(str(kind), entry, _KINDS[kind])
    values = dict(entry)
    for name, value in values.items():
        if isinstance(value, Mapping):
            _refuse_unknown(f"{kind}.{name}", value, Ramp)
            values[name] = Ramp(**value)
    return _KINDS[kind](**values)


def _refuse_unknown(path: str, entry: Mapping[str, Any], cls: type) -> None:
    known = [f.name for f in fields(cls)]
    if extra := sorted(set(entry) - set(known)):
        raise ValueError(f"{path}: unknown field {extra[0]!r}; it has {known}")


def plan_to_json(plan: Plan) -> str:
    """The plan as one line of JSON."""
    return json.dumps(plan.to_dict())
