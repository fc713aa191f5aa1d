"""Returns of pi_0: drawn until the regime is decided, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain import progress
from posttrain.intervention.plan import Plan, plan_from_dict
from posttrain.llm.data import Row
from posttrain.llm.environment import last_word
from posttrain.llm.prompts import demonstration_ids
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import Generator, rollouts
from posttrain.llm.settings import DiagnoseSettings, LlmRecipe
from posttrain.outcome import unit_means
from posttrain.regime import Diagnosis, Flag, diagnose, sequential
from posttrain.regime.scores import Scores, read_scores
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Records = list[dict[str, Any]]


def policy(
    recipe: LlmRecipe,
    generate: Generator,
    judge: Judge,
    *,
    heldout: Sequence[Row],
    seen: Sequence[Row],
    demonstrations: Sequence[Mapping[str, Any]],
    folder: Path,
    world: World,
) -> Records:
    """Roll pi_0 out: under the RL sampler until the regime is decided, then under deployment.

    The RL sampler's held-out rollouts decide. The deployment decoding is measured on the same
    units, and the RL sampler on some prompts that SFT has seen.
    """
    settings = recipe.diagnose
    units = one_a_unit(heldout)[: settings.units]
    stop = _stopping_rule(settings, demonstrations)
    common: dict[str, Any] = {"judge": judge, "world": world, "batch": settings.batch}
    with progress.bar("sampling pi_0", len(units), speak=world.main) as bar:
        found = rollouts(
            units,
            generate,
            decoding=recipe.rollout,
            samples=settings.samples,
            seed=recipe.seed,
            folder=folder / "rollout",
            enough=stop,
            tick=bar.update,
            split="heldout",
            kind="rollout",
            **common,
        )
    drawn = list(dict.fromkeys(r["unit"] for r in found))
    names = set(drawn)
    same = [row for row in units if row.unit in names]
    with progress.bar("pi_0 as deployed", len(same), speak=world.main) as bar:
        found += rollouts(
            same,
            generate,
            decoding=recipe.deployment,
            samples=1 if recipe.deployment.temperature == 0 else settings.samples,
            seed=recipe.seed + 1,
            folder=folder / "deployment",
            enough=never,
            tick=bar.update,
            split="heldout",
            kind="deployment",
            **common,
        )
    some = one_a_unit(seen)[: settings.seen_units]
    with progress.bar("pi_0 on seen prompts", len(some), speak=world.main) as bar:
        found += rollouts(
            some,
            generate,
            decoding=recipe.rollout,
            samples=settings.samples,
            seed=recipe.seed + 2,
            folder=folder / "seen",
            enough=never,
            tick=bar.update,
            split="seen",
            kind="rollout",
            **common,
        )
    return found


def one_a_unit(rows: Sequence[Row]) -> list[Row]:
    """The first row of each unit."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.unit, row)
    return list(first.values())


def never(_: Records) -> bool:
    """Draw every unit."""
    return False


def looks(
    policy_returns: Mapping[str, float],
    data_returns: Mapping[str, float],
    settings: DiagnoseSettings,
) -> sequential.Sequential:
    """Look at the units in the order in which they were drawn, batch by batch.

    Args:
        policy_returns: mean return of each unit's rollouts, in the order of drawing.
        data_returns: mean return of each unit's demonstrations.
        settings: margin, level, scale and the size of a batch.
    """
    state = sequential.start(margin=settings.margin, alpha=settings.alpha, scale=settings.scale)
    shared = [unit for unit in policy_returns if unit in data_returns]
    for start in range(0, len(shared), settings.batch):
        batch = shared[start : start + settings.batch]
        state = state.update(
            [policy_returns[unit] for unit in batch], [data_returns[unit] for unit in batch]
        )
    return state


def _stopping_rule(
    settings: DiagnoseSettings, demonstrations: Sequence[Mapping[str, Any]]
) -> Callable[[Records], bool]:
    """Stop once the sequential test has decided, after the minimum of units."""
    data = unit_means(row for row in demonstrations if row["split"] == "heldout")

    def enough(found: Records) -> bool:
        mine = unit_means(found)
        return len(mine) >= settings.minimum and looks(mine, data, settings).decided

    return enough


def reuse(path: Path) -> Records:
    """Rollouts that somebody else has drawn, as the held-out rollouts of pi_0."""
    found = read_scores(path, source="policy").rows()
    return [
        {
            **row,
            "source": "policy",
            "split": row.get("split") or "heldout",
            "decoding": row.get("decoding") or "rollout",
        }
        for row in found
    ]


def diagnose_split(
    scores: Scores, split: str, settings: DiagnoseSettings, flags: tuple[Flag, ...]
) -> Diagnosis:
    """Diagnose on the prompts that SFT has seen, or has not.

    Held-out rollouts were drawn until the sequential test decided, so that it decides here too.
    Demonstrations of units that were not rolled out are left out: both sides speak of the same
    prompts.
    """
    mine = scores.where(source="policy", split=split)  # type: ignore[arg-type]
    policy_side = mine.where(decoding="rollout")
    data = scores.where(source="dataset", split=split)  # type: ignore[arg-type]
    if policy_side.unit is not None and data.unit is not None:
        drawn = np.isin(data.unit, policy_side.unit)
        data = data.where(drawn) if drawn.any() else data
    common: dict[str, Any] = {
        "margin": settings.margin,
        "alpha": settings.alpha,
        "scale": settings.scale,
        "extra_flags": flags,
    }
    if split == "seen" or settings.scores is not None:
        return diagnose(policy_side, data, **common)
    deployed = mine.where(decoding="deployment")
    state = looks(unit_means(policy_side.rows()), unit_means(data.rows()), settings)
    return sequential.diagnose_sequential(
        policy_side, data, deployment=deployed, before=state.interval, **common
    )


def returns_by_unit(scores: Scores) -> dict[str, list[float]]:
    """The returns of each unit, in the order of the table; unscorable episodes have none."""
    found: dict[str, list[float]] = {}
    for row in scores.rows():
        if row["return"] is not None:
            found.setdefault(row["unit"], []).append(row["return"])
    return found


def plan_of(stored: Mapping[str, Any]) -> Plan:
    """The plan of a `plan.json`."""
    return plan_from_dict(stored["plan"])


def said_so(row: Row, text: str) -> Row:
    """`row` with what a rollout said in place of its demonstration.

    In an environment the text of a rollout is everything that was said, as JSON.
    """
    if not row.tools:
        return replace(row, completion=text)
    turns = tuple(json.loads(text))
    return replace(row, completion=last_word(turns), turns=turns)


def rollouts_of_pi0(
    scores: Scores, rows: Mapping[str, Row], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Row, Sequence[int]]]:
    """Finished held-out rollouts of pi_0 as token ids, the first of each unit."""
    mine = scores.where(source="policy", split="heldout").where(decoding="rollout").rows()
    found: dict[str, tuple[Row, Sequence[int]]] = {}
    for rollout in mine:
        unit, text = rollout["unit"], rollout.get("text")
        if unit in rows and unit not in found and text is not None and not rollout["truncated"]:
            found[unit] = (rows[unit], demonstration_ids(tokenizer, said_so(rows[unit], text))[1])
    if not found:
        raise ValueError(
            "no rollout of pi_0 ended before rollout.max_new_tokens, so there is nothing to "
            "compare with during RL; raise the limit or train SFT to end its answers"
        )
    return list(found.values())
