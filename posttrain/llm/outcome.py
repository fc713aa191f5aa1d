"""What did RL change? The fine-tuned policy on the units on which pi_0 was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain import progress
from posttrain.llm.data import Row
from posttrain.llm.measure import one_a_unit
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import Generator, rollouts
from posttrain.llm.settings import LlmRecipe
from posttrain.regime.scores import Scores
from posttrain.tuning.measured import Records, never
from posttrain.tuning.world import World


def again(
    recipe: LlmRecipe,
    generate: Generator,
    judge: Judge,
    *,
    rows: Sequence[Row],
    before: Scores,
    folder: Path,
    world: World,
) -> Scores:
    """Roll the fine-tuned policy out on the units on which pi_0 was diagnosed."""
    drawn = {row["unit"] for row in before.where(source="policy", split="heldout").rows()}
    same = [row for row in one_a_unit(rows) if row.unit in drawn]
    found: Records = []
    for number, (name, decoding) in enumerate(
        (("rollout", recipe.rollout), ("deployment", recipe.deployment))
    ):
        greedy = decoding.temperature == 0
        with progress.bar(f"after RL, {name}", len(same), speak=world.main) as bar:
            found += rollouts(
                same,
                generate,
                judge,
                decoding,
                samples=1 if greedy else recipe.diagnose.samples,
                batch=recipe.diagnose.batch,
                seed=recipe.seed + 3 + number,
                folder=folder / name,
                enough=never,
                tick=bar.update,
                world=world,
                split="heldout",
                kind=name,
            )
    return Scores.from_rows(found)
