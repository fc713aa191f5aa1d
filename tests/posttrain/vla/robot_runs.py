"""A robot policy so small that its whole run takes seconds."""

import copy

import yaml

from posttrain import run as runs

RECIPE = {
    "kind": "vla",
    "name": "small",
    "threads": 1,
    "environment": {"envs": 8, "options": {"colours": 2}, "max_steps": 6},
    "data": {"episodes": 30, "heldout": 10},
    "model": {"hidden": 32, "layers": 1},
    "sft": {"trainer": {"max_steps": 8, "per_device_train_batch_size": 8, "save_steps": 4,
                        "learning_rate": 3e-3}},
    "diagnose": {"starts": 10, "minimum": 10, "batch": 5, "seen_starts": 4, "floor": 4, "film": 1},
    "interventions": [
        {"kind": "anchor", "coefficient": {"start": 0.1, "end": 0.0, "steps": 3},
         "estimator": "exact"},
        {"kind": "replay", "weight": 0.5},
        {"kind": "warmup", "steps": 1},
    ],
    "rl": {
        "steps": 4, "eval_every": 2, "eval_starts": 5, "save_every": 2, "probe_rows": 8,
        "replay_rows": 8, "starts": 16,
        "trainer": {"per_device_train_batch_size": 8, "num_generations": 4, "logging_steps": 1,
                    "learning_rate": 1e-3},
    },
}  # fmt: skip


def written(folder, **changed):
    """A recipe on disk; `data={...}` changes some fields of a part, other values replace it."""
    recipe = copy.deepcopy(RECIPE)
    for name, value in changed.items():
        if isinstance(value, dict) and isinstance(recipe.get(name), dict):
            recipe[name] |= value
        else:
            recipe[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def diagnosed(folder, **changed):
    """The record of a run that ends with its diagnosis, without a report."""
    from posttrain.vla import pipeline

    given = {"output": str(folder / "runs"), "rl": None, "interventions": [], **changed}
    return pipeline.run(runs.load(written(folder, **given)), stop_after="diagnose")


def whole(folder, **changed):
    """The record of a run to its end, without a report."""
    from posttrain.vla import pipeline

    return pipeline.run(runs.load(written(folder, **{"output": str(folder / "runs"), **changed})))


def contents(folder):
    """Everything that a user reads, without paths and clocks."""
    import pyarrow.parquet as pq

    names = ("diagnosis.json", "integrity.json", "plan.json", "outcome.json", "parity.json",
             "signal.json", "floor.json", "metrics.jsonl", "sft_metrics.jsonl",
             "curve.jsonl")  # fmt: skip
    found = {name: (folder / name).read_text() for name in names}
    for name in ("sft/model.safetensors", "rl/model.safetensors", "films/index.json"):
        found[name] = (folder / name).read_bytes()
    for name in ("scores.parquet", "outcome.parquet", "evaluations.parquet"):
        found[name] = pq.read_table(folder / name).to_pylist()
    return found
