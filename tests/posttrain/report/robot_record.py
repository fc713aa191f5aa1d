"""A record of a robot policy's run that never happened: scores, tasks, films and metrics."""

from pathlib import Path

import numpy as np

from posttrain.record import Record, write_json, write_jsonl, write_text
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, concat, write_scores
from posttrain.regime.signal import silent_share
from posttrain.regime.tasks import by_task
from posttrain.vla.film import write_films
from posttrain.vla.reel import Reel

PICTURES = (24, 24)


def write_robot_record(folder: Path, *, tasks=6, starts=30, seed=0) -> Path:
    """Write the files that a report on a robot policy reads."""
    rng, record = np.random.default_rng(seed), Record(folder)
    chance = np.clip(np.linspace(0.15, 1.05, tasks), 0, 1)
    policy = [_side(rng, chance, starts, "policy", d) for d in ("rollout", "deployment")]
    dataset = _side(rng, np.full(tasks, 0.8), starts, "dataset", None)
    scores = concat(*policy, dataset)
    write_scores(scores, record.scores_file)
    found = diagnose(policy[0], dataset, deployment=policy[1])
    write_json(record.diagnosis_file, found.to_dict())
    write_json(record.tasks_file, by_task(policy[0], dataset).to_dict())
    share = silent_share(policy[0], 8)
    write_json(record.signal_file, {k: getattr(share, k) for k in share.__slots__})
    write_json(record.parity_file, {
        "pi0": 0.61, "rl": 0.58, "difference": -0.03, "interval": [-0.07, 0.01], "units": 90,
        "ok": True, "text": "Before its first step RL measured pi_0 at 0.580: they agree.",
    })  # fmt: skip
    write_json(record.floor_file, {
        "return": 0.11, "success": 0.12, "episodes": 200, "interval": [0.08, 0.16],
    })  # fmt: skip
    write_json(record.data / "account.json", {"text": "J(D) is replayed", "flags": []})
    write_json(record.data / "about.json", {"account": "D was made by an expert", "heldout": 3})
    write_jsonl(record.path / "metrics.jsonl", [_logged(rng, step) for step in range(1, 41)])
    write_text(record.recipe_file, "kind: vla\nname: grid\ndiagnose: {decides: rollout}\n")
    for side, wins in (("data", (True, True)), ("pi0", (False, True)), ("finetuned", (True, True))):
        reels = [_reel(i, won, unit=f"task 0{i}/{i}") for i, won in enumerate(wins)]
        write_films(record.films, side, reels)
    return folder


def _side(rng, chance, starts, source, decoding):
    tasks = [f"pick up the {i:02d}th cube and put it into the bowl" for i in range(len(chance))]
    rows = [
        {
            "source": source, "unit": f"{task}/{k}", "task": task, "return": float(won),
            "success": bool(won), "steps": int(rng.integers(3, 30)), "split": "heldout",
            **({} if decoding is None else {"decoding": decoding}),
        }
        for task, p in zip(tasks, chance, strict=True)
        for k in range(starts)
        for won in [rng.random() < p]
    ]  # fmt: skip
    return Scores.from_rows(rows)


def _logged(rng, step):
    return {
        "step": step, "reward": 0.5 + 0.01 * step + rng.normal(0, 0.02),
        "frac_reward_zero_std": 0.4 - 0.005 * step, "episode/success": 0.5 + 0.01 * step,
        "episode/steps": 9 - 0.1 * step, "episode/rows": 64.0, "entropy": 1.2 - 0.01 * step,
        "regime/kl_to_pi0": 0.001 * step, "replay/nll": 1.0 - 0.01 * step,
        **({"regime/J": 0.58 + 0.004 * step} if step % 10 == 0 else {}),
    }  # fmt: skip


def _reel(number, success, *, unit):
    frames = np.full((7, *PICTURES, 3), 40, np.uint8)
    frames[:, 16:22, 16:22] = (226, 61, 56)
    for step in range(7):
        frames[step, 3 * step : 3 * step + 4, 3 * number : 3 * number + 4] = 240
    return Reel(
        unit=unit, instruction=f"go to the red block, start {number}", success=success,
        value=float(success), steps=6, frames=lambda some: {"top": frames[list(some)]}, length=7,
    )  # fmt: skip
