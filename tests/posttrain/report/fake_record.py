"""A complete record folder of a run that never happened, in a second and from one seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.intervention.plan import Anchor, Plan, Ramp, Replay, Warmup, chain
from posttrain.record import Record, read_json, write_json, write_jsonl, write_text
from posttrain.regime.decomposition import decompose
from posttrain.regime.diagnosis import Flag, diagnose
from posttrain.regime.scores import Scores, concat, write_scores

SAMPLES = 8
STEPS = 120
PLAN = chain(
    Replay(weight=Ramp(0.5, 0.05, steps=80, shape="cosine"), gate="map"),
    Anchor(coefficient=Ramp(0.02, 0.0, steps=100, rise=10)),
    Warmup(steps=5),
)(Plan())


def write_record(folder: Path, *, units=160, seed=0, ease=0.0, demonstrations=0.93) -> Path:
    """Write every file of a run on `units` held-out and as many seen prompts."""
    rng = np.random.default_rng(seed)
    record = Record(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("seen", "train"), ("heldout", "heldout")):
        write_jsonl(record.data / f"{name}.jsonl", [_example(split, i) for i in range(units)])
    solved = rng.beta(0.5, 0.8 - 0.4 * ease, units)
    tables = [
        _samples(rng, "seen", solved + 0.15, "rollout"),
        _samples(rng, "heldout", solved, "rollout"),
        _samples(rng, "heldout", solved + 0.12, "deployment", samples=1),
        _demonstrations(rng, "seen", units, demonstrations),
        _demonstrations(rng, "heldout", units, demonstrations),
    ]
    scores = concat(*tables)
    write_scores(scores, record.scores_file)
    _diagnoses(record, scores)
    _sft(record, rng)
    _plan(record)
    _rl(record, rng, solved)
    write_json(record.environment_file, {
        "python": "3.11.9", "platform": "Linux x86_64", "cpus": 2, "seed": seed, "git": None,
        "versions": {"torch": "2.13.0", "trl": "1.16.0", "transformers": "5.23.0"},
    })  # fmt: skip
    write_text(record.recipe_file, "kind: llm\nmodel: {hidden: 128}\nrl:\n  num_generations: 8\n")
    return folder


def _example(split, i):
    a, b = 3 + 7 * i % 89, 5 + 11 * i % 83
    prompt = [{"role": "user", "content": f"What is {a} + {b}?"}]
    return {"unit": f"{split}-{i:05d}", "prompt": prompt,
            "completion": f"{a} + {b} = {a + b}. The answer is {a + b}.",
            "answer": str(a + b)}  # fmt: skip


def _samples(rng, split, chance, decoding, samples=SAMPLES):
    units = len(chance)
    won = rng.random((units, samples)) < np.clip(chance, 0, 1)[:, None]
    flat = won.ravel()
    answers = [_example(split, i)["answer"] for i in range(units)]
    said = [answers[i // samples] if w else "17" for i, w in enumerate(flat)]
    return Scores(
        flat.astype(float),
        unit=np.repeat([f"{split}-{i:05d}" for i in range(units)], samples),
        source=np.full(flat.size, "policy", dtype=object),
        seed=np.tile(np.arange(samples), units),
        steps=rng.integers(5, 60, flat.size),
        success=flat,
        truncated=rng.random(flat.size) < 0.01,
        unscorable=np.zeros(flat.size, dtype=bool),
        text=np.array([f"Let me add them.\nThe answer is {s}." for s in said], dtype=object),
        split=np.full(flat.size, split, dtype=object),
        decoding=np.full(flat.size, decoding, dtype=object),
    )


def _demonstrations(rng, split, units, right):
    won = rng.random(units) < right
    lost = rng.random(units) < 0.02
    returns = np.where(lost, np.nan, won.astype(float))
    texts = [
        row["completion"] if w else row["completion"].replace(row["answer"], "0")
        for row, w in zip((_example(split, i) for i in range(units)), won, strict=True)
    ]
    return Scores(
        returns,
        unit=np.array([f"{split}-{i:05d}" for i in range(units)], dtype=object),
        source=np.full(units, "dataset", dtype=object),
        success=won & ~lost,
        truncated=~lost & (rng.random(units) < 0.02),
        unscorable=lost,
        text=np.array(texts, dtype=object),
        split=np.full(units, split, dtype=object),
    )


def _diagnoses(record, scores):
    for path, split in (
        (record.diagnosis_file, "heldout"),
        (record.diagnosis_seen_file, "seen"),
    ):
        here = scores.where(split=split)
        policy = here.where(source="policy")
        deployed = policy.where(decoding="deployment")
        found = diagnose(
            policy.where(decoding="rollout"),
            here.where(source="dataset"),
            deployment=deployed if len(deployed) else None,
            extra_flags=(Flag("sft_not_converged", "the held-out loss still fell by 8%"),)
            if split == "heldout"
            else (),
        )
        write_json(path, found.to_dict())


def _sft(record, rng):
    steps = np.arange(1, 101)
    losses = 2.4 * np.exp(-steps / 18) + 0.45 - 0.001 * steps + rng.normal(0, 0.03, 100)
    rows = [{"step": int(s), "loss": float(x)} for s, x in zip(steps, losses, strict=True)]
    checks = [{"step": int(s), "loss": float(losses[s - 1] + 0.2)} for s in steps[9::10]]
    rows += [{"step": c["step"], "eval_loss": c["loss"]} for c in checks]
    write_jsonl(record.path / "sft_metrics.jsonl", rows)
    write_json(record.integrity_file, {
        "converged": False, "fall": 0.08, "losses": checks,
        "text": "the held-out loss still fell by 8% over the last fifth of SFT",
    })  # fmt: skip


def _plan(record):
    fallback = replace(PLAN, replay=None)
    write_json(record.plan_file, {
        "plan": PLAN.to_dict(),
        "reason": "The dataset is better and π₀ finds some successes by itself.",
        "refuted_by": "Held-out return that falls below J(D) and stays there for 30 steps.",
        "fallback": fallback.to_dict(),
        "fallback_reason": "Then the demonstrations are too far from what π₀ can say.",
        "source": "prescribed",
        "alternatives": [
            {"plan": Plan().to_dict(), "reason": "Reward alone may do."},
            {"plan": Warmup(steps=20)(Plan()).to_dict(), "reason": "A longer warm-up."},
        ],
    })  # fmt: skip


def _rl(record, rng, solved):
    rows, evaluated = [], {"step": [], "unit": [], "return": []}
    for step in range(STEPS + 1):
        share = step / STEPS
        row = {
            "step": step, "reward": 0.35 + 0.5 * share + rng.normal(0, 0.06),
            "loss": rng.normal(0, 0.02), "grad_norm": 1 + rng.exponential(0.3),
            "regime/kl_to_pi0": 0.4 * share**0.7 + rng.normal(0, 0.01) * (step > 0),
            "regime/nll_on_data": 0.5 - 0.2 * share + rng.normal(0, 0.01),
            "regime/replay_weight": PLAN.replay.weight(step), "regime/replay_share": 0.0,
            "regime/anchor": PLAN.anchor.coefficient(step),
        }  # fmt: skip
        if step % 10 == 0:
            chance = np.clip(solved + 0.55 * share**0.8 - 0.35 * share * (1 - share) ** 4 * 5, 0, 1)
            returns = rng.binomial(4, chance) / 4
            half = 1.96 * returns.std(ddof=1) / np.sqrt(len(returns))
            row |= {"regime/J": returns.mean(), "regime/J_low": returns.mean() - half,
                    "regime/J_high": returns.mean() + half}  # fmt: skip
            evaluated["step"] += [step] * len(returns)
            evaluated["unit"] += [f"heldout-{i:05d}" for i in range(len(returns))]
            evaluated["return"] += returns.tolist()
        rows.append(row)
    write_jsonl(record.path / "metrics.jsonl", rows)
    pq.write_table(pa.table(evaluated), record.evaluations_file)
    tuned = [
        replace(_samples(rng, "heldout", np.clip(solved + 0.55, 0, 1), d, samples=n))
        for d, n in (("rollout", 4), ("deployment", 1))
    ]
    write_scores(concat(*tuned), record.outcome_scores_file)
    _outcome(record, evaluated, solved)


def _outcome(record, evaluated, solved):
    steps, returns = np.array(evaluated["step"]), np.array(evaluated["return"])
    curve = [returns[steps == s] for s in np.unique(steps)]
    units = [np.array(evaluated["unit"])[steps == s] for s in np.unique(steps)]
    parts = decompose(
        curve, units=units, prior_dataset=read_json(record.diagnosis_file)["j_dataset"],
        steps=np.unique(steps), rng=np.random.default_rng(0), resamples=200,
    )  # fmt: skip
    before, after = float(solved.mean()), parts.final
    gain = {"before": before, "after": after, "gain": after - before, "alpha": 0.05,
            "interval": [after - before - 0.05, after - before + 0.05],
            "units": len(solved)}  # fmt: skip
    write_json(record.outcome_file, {
        **gain, "decoding": "rollout",
        "deployment": {**gain, "before": before + 0.1, "gain": after - before - 0.1,
                       "interval": [after - before - 0.17, after - before - 0.03]},
        "decomposition": parts.to_dict(),
    })  # fmt: skip
