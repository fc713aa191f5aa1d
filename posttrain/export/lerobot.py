"""LeRobot: SAC with a share of demonstrations in every batch; nothing holds on to pi_0."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Cannot, Note, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup
from posttrain.intervention.ramp import ramp

NAME = "LeRobot"


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in LeRobot's options."""
    yield Put("--algorithm.type", ask.algorithm)
    yield from _anchor(plan.anchor)
    yield from _replay(plan.replay, ask)
    yield from _warmup(plan.warmup)
    yield from common.no_reset(NAME, plan.reset)
    yield Warn(
        "LeRobot's RL is SAC on a small Gaussian actor: it has no policy-gradient RL of its "
        "vision-language-action policies. RLinf has."
    )


def _anchor(anchor: Anchor | None) -> Iterator[Said]:
    if anchor is None:
        return
    from posttrain.export.fields import live

    for field in live(Plan(anchor=anchor)):
        yield Cannot(field, f"{NAME}'s SAC has no term that pulls the policy to pi_0")


def _replay(replay: Replay | None, ask: Ask) -> Iterator[Said]:
    share = 0.0 if replay is None else common.mean(replay.share, ask.steps)
    yield Put("--mixer", "online_offline")
    yield Put("--online_ratio", common.tidy(1 - share), "replay.share" if share else None)
    if replay is None:
        return
    if ramp(replay.share).peak > 0:
        yield Put("--dataset.repo_id", common.DATA)
        yield from common.constant(NAME, "replay.share", replay.share, ask)
        if share == 0:
            yield Note("replay.share", f"{NAME}: the mean share is 0, so no D is mixed in")
    if ramp(replay.weight).peak > 0:
        yield Cannot(
            "replay.weight",
            f"{NAME}'s SAC has no cloning loss; a share of D in the batches is what it offers "
            "(replay.share)",
        )
    if replay.token_weight != "none":
        yield Cannot("replay.token_weight", f"{NAME} weighs no demonstration")
    yield from common.no_prefix(NAME, replay)
    yield from common.no_gate(NAME, replay)


def _warmup(warmup: Warmup | None) -> Iterator[Said]:
    if warmup is None:
        return
    option = "--policy.online_step_before_learning"
    yield Put(option, warmup.steps, "warmup.steps")
    yield Note(
        "warmup.steps",
        f"{NAME} counts transitions that the policy collects before anything learns, so the critic "
        f"does not learn meanwhile; with your utd ratio, set {option} to as many transitions",
    )
