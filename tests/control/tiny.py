"""The smallest run that goes through every stage: a corridor, networks of 16, forty steps."""

import json

import pyarrow.parquet as pq

from control.settings import ControlRecipe
from posttrain import recipe

TEXT = """
kind: control
name: tiny
env: {id: PointMaze_UMaze-v3, maze: corridor, frame_skip: 10, horizon: 12, score: success}
dataset: {make: {kind: waypoint, episodes: 12, noise_probability: 0.5}}
networks: {policy: deterministic, actor: [16], critic: [16], critic_norm: true}
pretrain: {algorithm: {kind: td3_bc, td3: {gamma: 0.5}}, steps: 60, batch: 16, log_every: 20}
diagnose: {episodes: 6}
interventions: [{kind: warmup, steps: 5}, {kind: replay, share: 0.25}]
finetune:
  algorithm: {kind: td3, gamma: 0.5, tau: 0.01}
  steps: 40
  batch: 16
  start: 10
  eval_every: 20
  eval_episodes: 4
  log_every: 10
  save_every: 15
"""


def tiny(output, *overrides):
    return recipe.load(ControlRecipe, TEXT, [f"output={output}", *overrides])


def read(folder):
    """Everything a user reads of a record, without paths and clocks; weights as bytes."""
    found = {
        name: (folder / name).read_text()
        for name in ("diagnosis.json", "plan.json", "integrity.json", "outcome.json",
                     "metrics.jsonl", "sft_metrics.jsonl", "curve.jsonl")
    }  # fmt: skip
    for name in ("scores.parquet", "outcome.parquet", "evaluations.parquet"):
        found[name] = pq.read_table(folder / name).to_pylist()
    for name in ("pi0/agent.safetensors", "rl/agent.safetensors"):
        found[name] = (folder / name).read_bytes()
    return found


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
