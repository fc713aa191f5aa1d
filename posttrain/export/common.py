"""What several exporters say in the same words."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export.says import Ask, Cannot, Note, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup
from posttrain.intervention.ramp import Ramp, ramp

DATA = "PATH/TO/D"
"""Stands where the user's demonstrations belong."""


def tidy(value: float) -> float:
    """Six digits are enough to be typed."""
    return float(f"{value:.6g}")


def spoken(strength: float | Ramp) -> str:
    """A strength in words.

    >>> spoken(Ramp(0.1, 0.02, steps=50, shape="cosine"))
    '0.1 -> 0.02 in 50 steps (cosine)'
    """
    r = ramp(strength)
    risen = f", after a rise over {r.rise} steps" if r.rise else ""
    if r.final == r.start:
        return f"{r.start:g}{risen}"
    return f"{r.start:g} -> {r.final:g} in {r.steps} steps ({r.shape}){risen}"


def moves(strength: float | Ramp) -> bool:
    """Whether a strength changes with the step."""
    r = ramp(strength)
    return r.final != r.start or r.rise > 0


def mean(strength: float | Ramp, steps: int) -> float:
    """The mean over the planned steps, which is what one number can keep of a schedule."""
    return tidy(ramp(strength).total(steps) / steps)


def constant(name: str, field: str, strength: float | Ramp, ask: Ask) -> Iterator[Said]:
    """Say what a framework that takes one number does to a schedule."""
    if moves(strength):
        yield Note(
            field,
            f"{name} takes one number: the mean over {ask.steps} steps of {spoken(strength)}, "
            f"{mean(strength, ask.steps):g}, is given, and the schedule is lost",
        )


def word(anchor: Anchor, known: dict[str, str]) -> str:
    """The framework's word for the estimator; k3's, or the only one's, where it has none."""
    return known.get(anchor.estimator) or known.get("k3") or next(iter(known.values()))


def other_estimator(name: str, anchor: Anchor, known: dict[str, str], where: str) -> Iterator[Said]:
    """Say that an estimator is not the one that was asked for."""
    if anchor.estimator not in known:
        taken = "k3" if "k3" in known else next(iter(known))
        yield Cannot(
            "anchor.estimator",
            f"{name} has no estimator {anchor.estimator!r} of the KL in the {where}; {taken} is "
            "what the options give",
        )


def fixed_reference(name: str, anchor: Anchor) -> Iterator[Said]:
    """A framework that keeps the reference where it started."""
    if anchor.reference == "fixed":
        return
    how = "mix the policy into" if anchor.reference == "synced" else "replace"
    for field in ("reference", *_moving(anchor)):
        yield Cannot(
            f"anchor.{field}",
            f"{name} keeps the reference fixed and cannot {how} it during a run; by hand, stop, "
            "and start again from the checkpoint as the model",
        )


def _moving(anchor: Anchor) -> list[str]:
    found = ["every"] if anchor.every else []
    found += ["mix"] if anchor.reference == "synced" else []
    return [*found, *(["trigger"] if anchor.trigger is not None else [])]


def no_target(name: str, anchor: Anchor, why: str) -> Iterator[Said]:
    """A framework whose coefficient stays as it is set."""
    if anchor.target is not None:
        for field in ("anchor.target", "anchor.rate"):
            yield Cannot(field, f"{name} cannot steer the coefficient towards a KL: {why}")


def horizon(name: str, anchor: Anchor, option: str, ask: Ask) -> Iterator[Said]:
    """Its horizon, in the controller of arXiv 1909.08593: responses a step over our rate."""
    yield Put(option, round(ask.responses / anchor.rate), "anchor.rate")
    yield Note(
        "anchor.rate",
        f"{name} counts responses: {option} is responses a step / rate, here for {ask.responses} "
        "responses; scale it with your batch",
    )


def moving_reference(
    name: str, anchor: Anchor, *, switch: str, every: str, mix: str
) -> Iterator[Said]:
    """TRL's three options for a reference that follows the policy."""
    if anchor.reference == "fixed":
        return
    if anchor.every == 0:
        for field in ("anchor.reference", "anchor.trigger"):
            yield Cannot(
                field,
                f"{name} moves the reference every so many steps, never when the KL exceeds "
                f"something",
            )
        return
    yield Put(switch, True, "anchor.reference")
    yield Put(every, anchor.every, "anchor.every")
    synced = anchor.reference == "synced"
    yield Put(mix, anchor.mix if synced else 1.0, "anchor.mix" if synced else None)
    yield from kept_optimizer(name, anchor)


def kept_optimizer(name: str, anchor: Anchor) -> Iterator[Said]:
    """What a reset of the reference lacks where only the reference can move."""
    if anchor.reference == "reset":
        yield Note(
            "anchor.reference",
            f"{name} replaces the reference by the policy and keeps the optimizer, which ProRL "
            "resets with it",
        )
    if anchor.trigger is not None and anchor.every:
        yield Cannot("anchor.trigger", f"{name} resets the reference by steps only, not by its KL")


def no_data(name: str, replay: Replay | None, why: str) -> Iterator[Said]:
    """A framework whose RL never sees D."""
    if replay is None:
        return
    for field, what in (
        ("weight", "an imitation loss on D beside the RL loss"),
        ("share", "demonstrations inside RL's groups or batches"),
    ):
        if ramp(getattr(replay, field)).peak > 0:
            yield Cannot(f"replay.{field}", f"{name} has no option for {what}: {why}")
    yield from no_prefix(name, replay)
    yield from no_gate(name, replay)
    if replay.token_weight != "none":
        yield Cannot("replay.token_weight", f"{name} weighs no tokens of D, which it does not see")


def no_prefix(name: str, replay: Replay) -> Iterator[Said]:
    """No framework starts rollouts from a part of a demonstration."""
    if ramp(replay.prefix_share).peak > 0:
        for field in ("replay.prefix_share", "replay.prefix"):
            yield Cannot(field, f"{name} starts no rollout from a part of its demonstration")


def no_gate(name: str, replay: Replay) -> Iterator[Said]:
    """No framework asks prompt by prompt whether to keep the demonstration."""
    if replay.gate == "map":
        yield Cannot(
            "replay.gate",
            f"{name} has no gate by prompt; a fixed one can be had by leaving prompts out of the "
            f"file of D where the diagnosis' map says rl or drop",
        )
    if replay.gate == "live":
        yield Cannot("replay.gate", f"{name} has no gate by prompt")


def learning_rate_warmup(
    name: str, warmup: Warmup | None, option: str, value: float, *, kept: str = ""
) -> Iterator[Said]:
    """Without a critic: a learning rate that climbs from 0, which is what spares a cold Adam."""
    if warmup is None:
        return
    yield Put(option, value, "warmup.steps")
    frozen = kept or "a frozen policy would learn nothing there, not even the optimizer's moments"
    yield Note(
        "warmup.steps",
        f"{name} without a critic: the learning rate climbs from 0 over {warmup.steps} steps "
        f"instead of the policy standing still, since {frozen}",
    )


def no_reset(name: str, reset: Reset | None) -> Iterator[Said]:
    """No framework resets weights."""
    if reset is None:
        return
    asked = ["parts", "how", *_strengths(reset)]
    if reset.every:
        for field in (*asked, "every"):
            yield Cannot(f"reset.{field}", f"{name} resets nothing during RL")
        return
    if set(reset.parts) <= {"adapter", "optimizer"}:
        for field in asked:
            yield Note(
                f"reset.{field}",
                f"{name} starts every run with a new optimizer and a new adapter, so there is "
                "nothing to set",
            )
        return
    for field in asked:
        yield Cannot(
            f"reset.{field}",
            f"{name} has no option for it: reset the checkpoint before RL with "
            "posttrain.intervention.reset.apply_reset and name the result as the model; a "
            "reference read from the same path is then the reset model, not pi_0",
        )


def _strengths(reset: Reset) -> list[str]:
    found = ["keep"] if reset.how != "fresh" else []
    found += ["noise"] if reset.how == "shrink_perturb" else []
    return [*found, *(["layers"] if "last_layers" in reset.parts else [])]


def check_kl(metric: str) -> Warn:
    """The check that every anchor needs."""
    return Warn(
        f"Look at {metric} of the first step: it must be about 0, or the reference is not pi_0."
    )
