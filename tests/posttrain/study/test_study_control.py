"""A very small study of the real thing: control recipes, trained together, tabulated."""

import pytest

from posttrain.record import Record
from posttrain.study import load_study
from posttrain.study.run import run_study, write_table

pytest.importorskip("gymnasium")
pytest.importorskip("torch")

BASE = """# Pendulum, hardly trained
kind: control
name: base
env: {id: Pendulum-v1, horizon: 20}
dataset: {make: {kind: random, episodes: 6}}
networks: {policy: deterministic, actor: [8], critic: [8]}
pretrain: {steps: 20, batch: 16}
diagnose: {episodes: 4, scale: [-400, 0], alternatives: true}
finetune: {steps: 40, batch: 16, start: 16, eval_every: 20, eval_episodes: 2, save_every: 40}
"""
STUDY = """# Two plans and a rival
kind: study
name: pendulum
output: {output}
recipe: {recipe}
seeds: [1, 2]
settings: [{{name: random}}]
arms:
  - {{name: warmup, overrides: {{interventions: [{{kind: warmup, steps: 10}}]}}}}
  - {{name: replay, overrides: {{interventions: [{{kind: replay, share: 0.5}}]}}}}
  - name: cloning
    family: supervised
    overrides: {{interventions: [], finetune.supervised: bc}}
"""


def test_control_cells_go_on_from_one_pi0_and_end_in_a_table(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(output=tmp_path / "out", recipe=tmp_path / "base.yaml"))
    study = load_study(path)
    outcomes = run_study(study)
    assert [o.reason for o in outcomes if o.state != "done"] == []
    setting = study.folder / "random"
    shared, cell = (Record(setting / arm / "seed-2") for arm in ("pi0", "replay"))
    assert cell.scores().rows() == shared.scores().rows()
    assert "finetune" not in "".join(shared.stages())
    (row,) = write_table(study).settings
    assert {p.rule for p in row.predictions} >= {"returns", "q", "clone"}
    assert [arm.family for arm in row.arms] == ["pi0-centric", "D-centric", "supervised"]
    assert all(len(arm.values) == 2 for arm in row.arms)
    assert row.outcome.found.seeds == 2
    assert {o.state for o in run_study(study)} == {"found"}
