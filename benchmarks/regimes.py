"""Are the three regimes diagnosed rightly on fresh seeds, and does the prescribed plan pay?

    python benchmarks/regimes.py --write

For every seed (of data, initial weights, batches and rollouts) each arithmetic recipe is run as it
stands: SFT, diagnosis, prescription, RL. Then the same pi_0 is fine-tuned under rival plans:
without the data where D is the stronger prior (and without RL: further SFT on D), with the data
where pi_0 is, and with a policy that never moves, whose gain must be nothing. Finished runs are
kept; `--write` puts the table into docs/results.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.record import Record, write_json
from posttrain.regime.statistics import clustered_mean
from posttrain.run import load, run
from posttrain.tuning.outcome import gain

RECIPES = {
    "arithmetic": "inferior",
    "arithmetic_superior": "superior",
    "arithmetic_comparable": "comparable",
}
SEEDS = {
    "arithmetic": (101, 102, 103, 104, 105),
    "arithmetic_superior": (201, 202, 203, 204, 205),
    "arithmetic_comparable": (301, 302, 303, 304),
}
STRONG_REPLAY = "[{kind: replay, weight: {start: 1.0, end: 0.05, steps: 100, shape: cosine}}]"
RIVALS = {
    "arithmetic": {"minimal: the data dropped": "[]"},
    "arithmetic_superior": {
        "replay: the weaker prior kept": STRONG_REPLAY,
        "frozen: pi_0 never moves": "[{kind: warmup, steps: 100}]",
    },
    "arithmetic_comparable": {},
}
DOC = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- regimes: start -->\n", "<!-- regimes: end -->"


def arms(recipe: str, seed: int, output: str) -> list[dict[str, Any]]:
    """Run a recipe and its rivals; return the rows of the table."""
    common = [f"seed={seed}", f"data.seed={seed}", f"output={output}"]
    folder = run(f"llm/{recipe}", [*common, f"name={recipe}_{seed}"])
    rows = [row(recipe, "prescribed", seed, folder)]
    for name, plan in RIVALS[recipe].items():
        short = name.split(":")[0]
        rival = run(
            f"llm/{recipe}",
            [*common, f"name={recipe}_{seed}_{short}", "sft=null", f"model.path={folder / 'sft'}",
             f"diagnose.scores={folder / 'scores.parquet'}", f"interventions={plan}",
             "rl.replay_rows=64"],
        )  # fmt: skip
        rows.append(row(recipe, name, seed, rival) | {"regime": rows[0]["regime"]})
    if recipe == "arithmetic":
        rows.append(supervised(seed, folder, common) | {"regime": rows[0]["regime"]})
    return rows


def supervised(seed: int, folder: Path, common: list[str]) -> dict[str, Any]:
    """Clone D further instead: as many updates, rows and learning rate as RL replayed, no RL."""
    overrides = (
        "sft.rows=null", "sft.trainer.max_steps=120", "sft.trainer.learning_rate=1e-3", "rl=null",
        f"model.path={folder / 'sft'}", f"name=arithmetic_{seed}_supervised",
    )  # fmt: skip
    after = Record(run("llm/arithmetic", [*common, *overrides])).scores()
    before, name = Record(folder), "supervised: further SFT on D"
    sides = [
        scores.where(source="policy", split="heldout", decoding="rollout")
        for scores in (before.scores(), after)
    ]
    settings = load("llm/arithmetic").diagnose
    return row("arithmetic", name, seed, folder) | gain(*sides, settings)


def row(recipe: str, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """What the table needs of a run."""
    found = Record(folder)
    diagnosis, outcome, plan = found.diagnosis(), found.outcome(), found.plan()
    return {
        "recipe": recipe,
        "arm": arm,
        "seed": seed,
        "regime": str(diagnosis.regime),
        "units": diagnosis.units,
        "gap": diagnosis.gap,
        "j_policy": diagnosis.j_policy,
        "j_dataset": diagnosis.j_dataset,
        "family": plan["plan"]["family"],
        "before": outcome["before"],
        "after": outcome["after"],
        "gain": outcome["gain"],
        "interval": outcome["interval"],
        "flags": [flag.kind for flag in diagnosis.flags],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Two Markdown tables: verdicts by seed, and gains by arm."""
    lines = [
        "*Units* are the held-out prompts that were drawn before the sequential test stopped.",
        "",
        "| recipe | seeds | verdicts | gap, by seed | units, by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    ran = {recipe: RECIPES[recipe] for recipe in dict.fromkeys(r["recipe"] for r in rows)}
    for recipe, wanted in ran.items():
        mine = [r for r in rows if r["recipe"] == recipe and r["arm"] == "prescribed"]
        right = sum(r["regime"] == wanted for r in mine)
        verdicts = f"{right} of {len(mine)} {wanted}"
        others = [r["regime"] for r in mine if r["regime"] != wanted]
        verdicts += f" (else: {', '.join(others)})" if others else ""
        gaps = ", ".join(f"{r['gap']:+.2f}" for r in mine)
        units = ", ".join(str(r["units"]) for r in mine)
        seeds = ", ".join(str(r["seed"]) for r in mine)
        lines.append(f"| `llm/{recipe}` | {seeds} | {verdicts} | {gaps} | {units} |")
    lines += [
        "",
        "Held-out return under the RL sampler, before and after RL; the interval is a t interval",
        "at 95 % over the seeds. *Sure*: seeds whose own interval over prompts excludes 0.",
        "",
        "| recipe | arm | before | after | gain | 95 % interval | sure |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in ran:
        for arm in dict.fromkeys(r["arm"] for r in rows if r["recipe"] == recipe):
            mine = [r for r in rows if r["recipe"] == recipe and r["arm"] == arm]
            gain = clustered_mean([r["gain"] for r in mine])
            before, after = (np.mean([r[k] for r in mine]) for k in ("before", "after"))
            sure = sum(r["interval"][0] > 0 or r["interval"][1] < 0 for r in mine)
            label = f"{arm} ({mine[0]['family']})" if arm == "prescribed" else arm
            lines.append(
                f"| `llm/{recipe}` | {label} | {before:.3f} | {after:.3f} | {gain.mean:+.3f} | "
                f"{gain.low:+.3f} to {gain.high:+.3f} | {sure} of {len(mine)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the docs")
    parser.add_argument("--output", default="runs/regimes")
    parser.add_argument("--write", action="store_true", help="write the table into the docs")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    chosen = parser.parse_args()
    rows = [
        found
        for recipe in chosen.recipes
        for seed in chosen.seeds or SEEDS[recipe]
        for found in arms(recipe, seed, chosen.output)
    ]
    write_json(Path(chosen.output) / "regimes.json", rows)
    text = table(rows)
    print(text)
    if chosen.write:
        page = DOC.read_text(encoding="utf-8")
        head, rest = page.split(START)
        DOC.write_text(head + START + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
