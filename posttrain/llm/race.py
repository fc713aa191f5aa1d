"""Which plan? A short race from one pi_0, when the diagnosis alone does not decide.

Every arm is the run that it would be alone: the same seeds, batches and schedules, paused after
each round and resumed from its checkpoint if it goes on. So the steps of the winner are not lost:
the run goes on from its checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from posttrain import progress, record
from posttrain.intervention import halving
from posttrain.llm import finetune, pipeline, reward
from posttrain.llm.arms import Arm, RaceError, arms_of, units_to_race_on
from posttrain.llm.legs import LOGS, Cost, Leg, Track, run_leg
from posttrain.llm.settings import LlmRecipe, ProbeSettings
from posttrain.llm.work import Run
from posttrain.outcome import gain, unit_means
from posttrain.record import Record
from posttrain.regime.scores import Scores
from posttrain.tuning import training
from posttrain.tuning.world import current


def race(settings: LlmRecipe, probe: ProbeSettings) -> Path:
    """Race the arms, hand over the winner's state, and return the record's folder.

    Stages up to the diagnosis are run where they are not finished; a killed race goes on where it
    stopped.

    Raises:
        ValueError: the recipe cannot be used, RL has begun, or a race of other settings has.
    """
    if settings.rl is None:
        raise RaceError("rl is null: there is nothing to race")
    settings = _as_recorded(settings)
    folder = pipeline.run(settings, stop_after="diagnose")
    training.silence()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    judge = reward.make_judge(settings.reward, scale=settings.diagnose.scale)
    work = Run(settings, Record(folder), current(), judge)
    alone = record.locked(folder.parent / f".{folder.name}.lock", wait=False)
    with alone if work.world.main else nullcontext():
        _race(work, probe)
    return folder


def _as_recorded(settings: LlmRecipe) -> LlmRecipe:
    """What a race is asked to be is no part of the run: its record keeps what it began with."""
    record = Record(Path(settings.output) / settings.name)
    if not record.recipe_file.exists():
        return settings
    from posttrain.recipe import load

    return replace(settings, probe=load(LlmRecipe, record.recipe_file).probe)


def _race(work: Run, probe: ProbeSettings) -> None:
    stored = work.record.plan()
    if stored is None:
        raise RaceError(f"{work.record.path}: the diagnosis is missing")
    found = _finished(work, probe)
    if found is None:
        if stored.get("source") == "probe" or _begun(work):
            raise RaceError(
                f"{work.record.path}: RL has begun, and a race comes before it; write to another "
                "folder (name=...), or start over with posttrain run --fresh"
            )
        algorithm = "grpo" if work.recipe.rl is None else work.recipe.rl.algorithm
        arms = arms_of(stored, probe, algorithm)
        found = _run(work, probe, arms)
        if work.world.main:
            record.write_json(work.record.path / "probe.json", found, nan_as_null=True)
    if work.world.main:
        _hand_over(work, found, stored)
    work.world.wait()


def _finished(work: Run, probe: ProbeSettings) -> dict[str, Any] | None:
    """A race that is over, or None; one of other settings is refused."""
    over, under_way = work.record.path / "probe.json", work.record.path / "probe/settings.json"
    asked = record.to_json(asdict(probe))
    if over.exists():
        found: dict[str, Any] = record.read_json(over)
        before = found["settings"]
    elif under_way.exists():
        found, before = {}, record.read_json(under_way)
    else:
        if work.world.main:
            record.write_text(under_way, asked)
        work.world.wait()
        return None
    if record.fingerprint(before) != record.fingerprint(asdict(probe)):
        raise RaceError(
            f"{work.record.path}: a race of other settings took place here: {before}; write to "
            "another folder (name=...), or start over with posttrain run --fresh"
        )
    return found or None


def _begun(work: Run) -> bool:
    return "rl" in work.record.stages() or _has_checkpoints(work)


def _has_checkpoints(work: Run) -> bool:
    return any((work.record.path / "checkpoints" / "rl").glob("checkpoint-*"))


def _run(work: Run, probe: ProbeSettings, arms: tuple[Arm, ...]) -> dict[str, Any]:
    scores = work.record.scores()
    if scores is None:
        raise RaceError(f"{work.record.path}: the scores of pi_0 are missing")
    drawn = scores.where(source="policy", split="heldout").rows()
    rows, aside = units_to_race_on(*work.rows(), frozenset(r["unit"] for r in drawn), probe.units)
    job = finetune.job_of(work, aside=aside)
    if work.recipe.rl is not None:  # where further SFT is prescribed, only its own arm runs it
        job = replace(job, settings=work.recipe.rl)
    laps = halving.rounds(len(arms), probe.eta)
    if len(laps) * probe.steps > job.settings.steps:
        raise RaceError(
            f"probe.steps: {len(laps)} rounds of {probe.steps} steps are more than rl.steps, "
            f"{job.settings.steps}; lower it to {job.settings.steps // len(laps)} or raise eta"
        )
    track = Track(work=work, job=job, probe=probe, rows=rows)
    told, going = [], arms
    legs: dict[tuple[str, int], Cost] = {}
    for lap in range(len(laps)):
        shown = {
            arm.name: [run_leg(track, arm, k, lap) for k in range(probe.seeds)] for arm in going
        }
        for name, found in shown.items():
            for number, leg in enumerate(found):
                legs[name, number] = legs.get((name, number), Cost()) + leg.cost
        lap_told, going = _lap(work, probe, going, shown, (lap + 1) * probe.steps)
        told.append(lap_told)
    return {
        "settings": asdict(probe),
        "seeds": [work.recipe.seed + k for k in range(probe.seeds)],
        "units": {"heldout": len(rows) - len(aside), "set_aside": sorted(aside)},
        "arms": {a.name: {"plan": a.plan.to_dict(), "algorithm": a.algorithm} for a in arms},
        "rounds": told,
        "winner": going[0].name,
        "cost": _costs(legs, going[0].name),
        "reason": _reason(told, len(arms), probe),
    }


def _lap(
    work: Run,
    probe: ProbeSettings,
    going: tuple[Arm, ...],
    shown: Mapping[str, Sequence[Leg]],
    steps: int,
) -> tuple[dict[str, Any], tuple[Arm, ...]]:
    """What a round shows, and who goes on."""
    settings = work.recipe.diagnose
    pooled = {
        name: Scores.from_rows(
            [
                {**row, "seed": k * probe.samples + row["seed"]}
                for k, leg in enumerate(legs)
                for row in leg.records
            ]
        )
        for name, legs in shown.items()
    }
    by_seed = {
        name: [sum(m.values()) / len(m) for leg in legs if (m := unit_means(leg.records))]
        for name, legs in shown.items()
    }
    means = {
        name: sum(m.values()) / len(m) for name, s in pooled.items() if (m := unit_means(s.rows()))
    }
    kept = halving.survivors(means, probe.eta)
    rows: list[dict[str, Any]] = [
        {
            "name": arm.name,
            "mean": means[arm.name],
            "by_seed": by_seed[arm.name],
            "against_best": gain(
                pooled[kept[0]], pooled[arm.name], alpha=settings.alpha, scale=settings.scale
            ),
            "goes_on": arm.name in kept,
        }
        for arm in going
    ]
    ordered = {name: place for place, name in enumerate(kept)}
    rows.sort(key=lambda row: -row["mean"])
    left = sorted((arm for arm in going if arm.name in kept), key=lambda arm: ordered[arm.name])
    said = "won by" if len(kept) == 1 else "on to the next round:"
    progress.say(f"race, step {steps}: {said} {', '.join(kept)}", speak=work.world.main)
    return {"steps": steps, "best": kept[0], "arms": rows}, tuple(left)


def _costs(legs: Mapping[tuple[str, int], Cost], winner: str) -> dict[str, Any]:
    """Every leg's bill, their sum, and what of it the run would have paid anyway."""
    total = Cost()
    for cost in legs.values():
        total += cost
    handed = replace(legs[winner, 0], comparisons=0)
    return {
        "legs": [{"arm": name, "seed": k, **asdict(cost)} for (name, k), cost in legs.items()],
        "total": asdict(total),
        "handed_over": asdict(handed),
    }


def _reason(told: Sequence[Mapping[str, Any]], arms: int, probe: ProbeSettings) -> str:
    last = told[-1]
    best, second = last["arms"][:2]
    found = second["against_best"]
    low, high = (-end for end in reversed(found["interval"]))
    sure = "" if low > 0 else ", so that the race did not tell them apart"
    return (
        f"{best['name']} won a race of {arms} arms over {last['steps']} steps with {probe.seeds} "
        f"seeds: {best['mean']:.3f} against {second['mean']:.3f} of {second['name']}, a lead of "
        f"{-found['gain']:+.3f} ({low:+.3f} to {high:+.3f}){sure}."
    )


def _hand_over(work: Run, found: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Let the run go on as the winner, from where it stopped. Done once, however often called.

    The plan comes first: a run without the checkpoint would take the same steps again.
    """
    root, winner = work.record.path, found["winner"]
    if stored.get("source") != "probe":
        told = [stored, *stored.get("alternatives", ())]
        plan = found["arms"][winner]["plan"]
        words: Mapping[str, Any] = next((t for t in told if t["plan"] == plan), {})
        kept = {k: words[k] for k in ("refuted_by", "fallback", "fallback_reason") if k in words}
        prescribed = {k: v for k, v in stored.items() if k not in ("alternatives", "source")}
        race = {k: found[k] for k in ("winner", "rounds", "cost")}
        record.write_json(
            work.record.plan_file,
            {
                **kept,
                "plan": plan,
                "reason": found["reason"],
                "source": "probe",
                "trains": "sft" if found["arms"][winner]["algorithm"] == "sft" else "rl",
                "set_aside": found["units"]["set_aside"],
                "race": race,
                "alternatives": [prescribed, *stored.get("alternatives", ())],
            },
            nan_as_null=True,
        )
    place = root / "probe" / winner.replace(" ", "-") / "seed-0"
    if not _begun(work) and (place / "checkpoints").exists():
        for name in LOGS:
            if (place / name).exists():
                record.write_text(root / name, (place / name).read_text(encoding="utf-8"))
        with record.replacing_folder(root / "checkpoints" / "rl") as folder:
            shutil.copytree(place / "checkpoints", folder, dirs_exist_ok=True)
    for checkpoints in (root / "probe").glob("*/seed-*/checkpoints"):
        shutil.rmtree(checkpoints, ignore_errors=True)
