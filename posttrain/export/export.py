"""Say a plan in another framework's options, and account for every field of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from posttrain.export import trl
from posttrain.export.fields import idle, live
from posttrain.export.framework import Framework, frameworks
from posttrain.export.result import Export, How
from posttrain.export.says import Algorithm, Ask, Cannot, Note, Put, Said, Value, Warn
from posttrain.export.table import EXPORTERS
from posttrain.intervention.capabilities import CONTROL_SAC, LLM_GRPO, LLM_LEARNERS
from posttrain.intervention.plan import Plan

FRAMEWORKS = tuple(EXPORTERS)
"""The names that `export` knows."""


def export(
    plan: Plan,
    framework: str,
    *,
    steps: int,
    algorithm: Algorithm | None = None,
    responses: int = 256,
) -> Export:
    """Say a plan in the options of another framework.

    Args:
        plan: what to keep of pi_0 and D. The default plan becomes plain RL, with every anchor
            that the framework has by default turned off.
        framework: one of `FRAMEWORKS`.
        steps: of RL; where a framework takes one number for a schedule, it is the mean over them.
        algorithm: the framework's; its first, GRPO but for LeRobot, if not said.
        responses: in one RL step, by which some frameworks count.

    Returns:
        The options, in the framework's own form, and what they cannot say.

    Raises:
        ValueError: an unknown framework, an algorithm that it does not have, or no step.
    """
    known = _framework(framework)
    chosen = known.algorithms[0] if algorithm is None else algorithm
    if chosen not in known.algorithms:
        raise ValueError(
            f"algorithm: {known.title} is exported with one of {list(known.algorithms)}, "
            f"got {chosen!r}"
        )
    if steps < 1 or responses < 1:
        raise ValueError(f"steps and responses must be >= 1, got {steps!r} and {responses!r}")
    ask = Ask(steps=steps, algorithm=chosen, responses=responses)
    said = list(_said(plan, known, ask))
    said += _null_k1(plan, said)
    return Export(
        framework=known,
        algorithm=chosen,
        options=_options(said),
        fields=_accounted(plan, known, said),
        notes=(*_merged(said, Note), *_without_effect(plan)),
        cannot=_merged(said, Cannot),
        warnings=tuple(dict.fromkeys(x.text for x in said if isinstance(x, Warn))),
        instead=_instead(plan, said, chosen),
        recipe=trl.recipe(plan, ask) if framework == "trl" else "",
    )


def _framework(name: str) -> Framework:
    if name not in EXPORTERS:
        raise ValueError(f"framework must be one of {list(EXPORTERS)}, got {name!r}")
    return frameworks()[name]


def _said(plan: Plan, framework: Framework, ask: Ask) -> Iterator[Said]:
    if plan.anchor is not None and plan.anchor.term == "bc":
        # no framework clones the reference's actions, so nothing of such an anchor is left
        for field in live(Plan(anchor=plan.anchor)):
            yield Cannot(
                field,
                f"{framework.title} has no cloning loss on the reference's actions; an anchor by "
                "KL may stand in",
            )
        plan = replace(plan, anchor=None)
    yield from EXPORTERS[framework.name](plan, ask)


def _options(said: Iterable[Said]) -> dict[str, Value]:
    return {x.option: x.value for x in said if isinstance(x, Put)}


_HOW: dict[type[Said], How] = {Put: "exact", Note: "approximate", Cannot: "cannot"}
_WORSE: tuple[How, ...] = ("exact", "approximate", "cannot")


def _accounted(plan: Plan, framework: Framework, said: Iterable[Said]) -> dict[str, How]:
    """How every field was honoured, the worst that was said of it.

    Raises:
        AssertionError: an exporter says nothing of a field; it is our mistake.
    """
    found: dict[str, How] = {}
    for x in said:
        if isinstance(x, Warn) or x.field is None:
            continue
        how = _HOW[type(x)]
        found[x.field] = max(found.get(x.field, how), how, key=_WORSE.index)
    if plan.anchor is not None and plan.anchor.term == "kl":
        found.setdefault("anchor.term", "exact")
        if plan.anchor.reference == "fixed":
            found.setdefault("anchor.reference", "exact")
    missing = [field for field in live(plan) if field not in found]
    if missing:
        raise AssertionError(f"the exporter of {framework.name} says nothing of {missing}")
    order = {field: found[field] for field in live(plan)}
    return {**order, **dict.fromkeys(idle(plan), "without effect")}


def _merged(said: Iterable[Said], kind: type[Note] | type[Cannot]) -> tuple[str, ...]:
    """Sentences with the fields that they are about, each sentence once."""
    fields: dict[str, list[str]] = {}
    for x in said:
        if isinstance(x, kind) and x.field not in fields.setdefault(x.text, []):
            fields[x.text].append(x.field)
    return tuple(f"{', '.join(names)}: {text}." for text, names in fields.items())


def _instead(plan: Plan, said: Iterable[Said], algorithm: Algorithm) -> str:
    """Which slots that cannot be said there our own learner honours whole."""
    sac = algorithm == "sac"
    learner = CONTROL_SAC if sac else LLM_LEARNERS.get((algorithm, False), LLM_GRPO)
    slots = dict.fromkeys(x.field.partition(".")[0] for x in said if isinstance(x, Cannot))
    can = [s for s in slots if learner.supports(replace(Plan(), **{s: getattr(plan, s)}))]
    if not can:
        return ""
    where = "on control tasks" if sac else "on TRL (`--for trl` prints the recipe)"
    return f"Posttrain's own {learner.learner} {where} does all of: {', '.join(can)}."


def _null_k1(plan: Plan, said: Iterable[Said]) -> Iterator[Said]:
    anchor = plan.anchor
    if anchor is None or anchor.estimator != "k1":
        return
    moved = any(isinstance(x, Cannot) and x.field == "anchor.place" for x in said)
    taken = any(isinstance(x, Put) and x.field == "anchor.estimator" for x in said)
    if taken and (moved or anchor.place == "loss"):
        yield Warn(
            "k1 beside the loss has an expected gradient of 0 and anchors nothing; take k2 or k3, "
            "or put it into the reward where that can be done."
        )


def _without_effect(plan: Plan) -> Iterator[str]:
    yield from (f"{field}: changes nothing in this plan." for field in idle(plan))
