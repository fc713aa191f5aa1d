"""Returns of pi_0: drawn until the regime is decided, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import progress
from posttrain.llm.data import Row
from posttrain.llm.environment import last_word
from posttrain.llm.prompts import demonstration_ids
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import Generator, rollouts
from posttrain.llm.settings import LlmRecipe
from posttrain.regime.scores import Scores
from posttrain.tuning.measured import Records, never, stopping_rule
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    stop = stopping_rule(settings, demonstrations)
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
