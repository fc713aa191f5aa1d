import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fake_record import write_record
from html_reader import Page

from posttrain.record import Record, RecordError, read_json, read_jsonl, write_json, write_jsonl
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, read_scores, write_scores
from posttrain.report import write_report, write_report_from_scores

OPTIONAL = {
    "scores.parquet": ("units", "recoverability", "returns", "outcome"),
    "sft_metrics.jsonl integrity.json": ("sft",),
    "plan.json": ("plan",),
    "metrics.jsonl evaluations.parquet": ("training",),
    "outcome.json": ("outcome",),
    "environment.json recipe.yaml": ("recipe",),
}


def test_the_page_says_the_numbers_of_the_diagnosis(reported):
    page, d = Page(reported / "report.html"), read_json(reported / "diagnosis.json")
    assert page.values["gap"] == [pytest.approx(d["gap"], rel=1e-5)]
    assert page.values["gap-interval"] == pytest.approx(d["interval"], rel=1e-5)
    said = page.values["verdict"]
    for key in ("j_policy", "j_dataset", "margin", "alpha", "units", "episodes_policy"):
        assert pytest.approx(d[key], rel=1e-5) in said, key
    assert "inferior" in page.texts["verdict"]
    assert all(f["text"][1:].replace("pi_0", "π₀") in page.texts["verdict"] for f in d["flags"])


def test_the_four_cells_count_the_units_of_the_scores(reported):
    page, rows = Page(reported / "report.html"), read_scores(reported / "scores.parquet").rows()
    rows = [r for r in rows if r["split"] == "heldout" and r["decoding"] in ("rollout", None)]
    right = {r["unit"]: r["success"] for r in rows if r["source"] == "dataset"}
    found = {r["unit"] for r in rows if r["source"] == "policy" and r["success"]}
    names = {(True, False): "keep", (True, True): "rl", (False, True): "drop"}
    wanted = Counter(names.get((ok, unit in found), "fix") for unit, ok in right.items())
    for name in ("keep", "rl", "drop", "fix"):
        count, share = page.values[f"cell {name}"][:2]
        assert count == wanted[name] > 0
        assert share == pytest.approx(wanted[name] / len(right), rel=1e-5)


def test_demonstrations_are_counted_once_each(reported):
    page = Page(reported / "report.html")
    rows = [r for r in read_scores(reported / "scores.parquet").rows() if r["source"] == "dataset"]
    kinds = Counter(
        "no-score" if r["unscorable"] else "truncated" if r["truncated"]
        else "right" if r["success"] else "wrong"
        for r in rows
    )  # fmt: skip
    for kind in ("right", "wrong", "no-score", "truncated"):
        assert page.values[f"demonstrations-{kind}"] == [kinds[kind]]


def test_recoverability_agrees_with_the_diagnosis(reported):
    page, r = Page(reported / "report.html"), read_json(reported / "diagnosis.json")
    found = r["recoverability"]
    for identity, key in (
        ("never", "no_success"),
        ("sometimes", "sometimes"),
        ("always", "always"),
    ):
        assert page.values[identity] == [pytest.approx(found[key], rel=1e-5)]
    alt = next(t["aria-label"] for n, t in page.tags if "pass@k" in (t.get("aria-label") or ""))
    for k, value in found["pass_at"].items():
        assert f"{value:.2f} at k={k}" in alt


def test_training_and_outcome_say_the_numbers_of_the_record(reported):
    page, outcome = Page(reported / "report.html"), read_json(reported / "outcome.json")
    for identity in ("before", "after", "gain"):
        assert page.values[identity] == [pytest.approx(outcome[identity], rel=1e-5)]
    parts = outcome["decomposition"]
    for identity, key in (("prior",) * 2, ("stability",) * 2, ("plasticity",) * 2,
                          ("noise", "noise_floor")):  # fmt: skip
        assert page.values[identity] == [pytest.approx(parts[key], rel=1e-5)]
    for name in ("stability", "plasticity"):
        ends = [parts["corrected"]["parts"][name], *parts["corrected"][name]]
        assert page.values[f"{name}-corrected"] == pytest.approx(ends, rel=1e-5)
    assert "RL raised the held-out return" in page.texts["outcome"]


def test_the_page_needs_nothing_but_itself(reported):
    page = Page(reported / "report.html")
    assert "http" not in page.source.replace("http-equiv", "")
    assert "@import" not in page.source
    identities = {t["id"] for _, t in page.tags if t.get("id")}
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
        assert "src" not in attributes
        if (target := attributes.get("href")) is not None:
            assert target.removeprefix("#") in identities
    policy = next(t for n, t in page.tags if n == "meta" and "http-equiv" in t)["content"]
    assert policy.startswith("default-src 'none'")


def test_every_figure_says_what_it_shows(reported):
    page = Page(reported / "report.html")
    drawings = [t for n, t in page.tags if n == "svg"]
    assert len(drawings) > 12
    assert all(t["role"] == "img" and len(t["aria-label"]) > 20 for t in drawings)
    names = Counter(t["id"] for _, t in page.tags if t.get("id"))
    assert names.most_common(1)[0][1] == 1
    figures = {t["id"].removeprefix("figure-") for n, t in page.tags if n == "figure"}
    assert figures == {p.stem for p in (reported / "figures").glob("*.png")}


def test_texts_of_a_model_cannot_become_markup(record, undrawn):
    evil = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
    scores = read_scores(record / "scores.parquet")
    spoilt = np.full(len(scores), evil, dtype=object)
    write_scores(replace(scores, text=spoilt, prompt=spoilt), record / "scores.parquet")
    write_scores(
        replace(read_scores(record / "outcome.parquet"), text=spoilt[: 24 * 5]),
        record / "outcome.parquet",
    )
    shutil.rmtree(record / "data")
    (record / "recipe.yaml").write_text(f"model: '{evil}'\n")
    plan = read_json(record / "plan.json")
    write_json(record / "plan.json", plan | {"reason": evil, "refuted_by": evil})
    write_json(record / "environment.json", {"platform": evil, "command": evil})
    write_json(record / "integrity.json", {"converged": False, "text": evil})
    record = record.rename(record.with_name("<script>alert(3)<"))
    page = Page(write_report(record))
    assert {n for n, _ in page.tags} & {"script", "img"} == set()
    assert not [a for _, t in page.tags for a in t if a.startswith("on")]
    assert page.source.count("<style>") == page.source.count("</style>") == 1
    for part in ("units", "returns", "sft", "plan", "outcome", "recipe"):
        assert evil in page.texts[part], part


@pytest.mark.parametrize("files", OPTIONAL)
def test_what_is_absent_is_said_in_a_sentence(record, undrawn, files):
    full = Page(write_report(record))
    for name in files.split():
        (record / name).unlink()
    page = Page(write_report(record))
    for key in full.texts:
        if key in {k for keys in OPTIONAL.values() for k in keys}:
            absent = "The record holds n" in page.texts[key]
            assert absent == (key in OPTIONAL[files]), key
    assert page.values["gap"] == full.values["gap"]


def test_a_lone_diagnosis_makes_a_page(tmp_path, record, undrawn):
    shutil.copy(record / "diagnosis.json", tmp_path)
    page = Page(write_report(tmp_path))
    assert page.values["gap"] == Page(write_report(record)).values["gap"]
    assert sum("class" in t and t["class"] == "absent" for _, t in page.tags) == 7
    assert "pass@k" in page.texts["recoverability"]


def test_lone_scores_are_diagnosed_by_the_split_and_decoding_that_decide(tmp_path, record, undrawn):
    shutil.copy(record / "scores.parquet", tmp_path)
    page = Page(write_report(tmp_path))
    assert page.values["gap"] == Page(write_report(record)).values["gap"]
    assert "made from its scores when the page was written" in page.texts["verdict"]


def test_neither_scores_nor_diagnosis_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"needs diagnosis\.json or scores\.parquet"):
        write_report(tmp_path)


def test_the_same_record_gives_the_same_bytes(tmp_path, reported):
    shutil.copytree(reported, other := tmp_path / "elsewhere" / reported.name)
    for path in [*(other / "figures").iterdir(), other / "report.html"]:
        path.unlink()
    write_report(other)
    drawn = sorted(p.name for p in (reported / "figures").iterdir())
    assert sorted(p.name for p in (other / "figures").iterdir()) == drawn
    for name in ["report.html", *(f"figures/{n}" for n in drawn)]:
        assert (reported / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("diagnosis.json", "gap", -0.123),
        ("diagnosis_seen.json", "j_policy", 0.777),
        ("integrity.json", "converged", True),
        ("plan.json", "refuted_by", "Something else."),
        ("environment.json", "seed", 17),
        ("outcome.json", "gain", 0.001),
    ],
)
def test_a_changed_value_changes_the_page(record, undrawn, file, key, value):
    before = write_report(record).read_bytes()
    write_json(record / file, read_json(record / file) | {key: value})
    assert write_report(record).read_bytes() != before


def test_figures_follow_the_metrics(tmp_path, reported):
    shutil.copytree(reported, folder := tmp_path / reported.name)
    before = (folder / "report.html").read_text()
    rows = read_jsonl(folder / "metrics.jsonl")
    rows[60]["regime/kl_to_pi0"] = 3.0
    write_jsonl(folder / "metrics.jsonl", rows)
    after = write_report(folder).read_text()
    changed = [p for p in after.split("<figure")[1:] if p not in before]
    assert len(changed) == 1
    assert 'id="figure-training-kl"' in changed[0]


def test_undecided_says_how_many_more_and_the_paper_label(tmp_path, undrawn):
    folder = write_record(tmp_path / "few", units=14, demonstrations=0.5, seed=1)
    page, d = Page(write_report(folder)), read_json(folder / "diagnosis.json")
    assert d["regime"] == "undecided"
    assert page.values["needed"] == [d["needed"]]
    assert "too little evidence counts as comparable" in page.texts["verdict"]


def test_a_loss_is_not_called_a_gain(record, undrawn):
    outcome = read_json(record / "outcome.json")
    for gain, ends, said in (
        (-0.2, [-0.3, -0.1], "lowered"),
        (0.01, [-0.1, 0.12], "No change of the held-out return is shown"),
    ):
        write_json(record / "outcome.json", outcome | {"gain": gain, "interval": ends})
        assert said in Page(write_report(record)).texts["outcome"]


def test_two_score_files_and_no_run_make_a_page(tmp_path):
    rng = np.random.default_rng(0)
    unit = np.array([f"task-{i}" for i in range(60)])
    policy = Scores(rng.random(60), unit=unit)
    dataset = Scores(rng.random(60) * 0.5, unit=unit)
    found = diagnose(policy, dataset)
    page = Page(write_report_from_scores(found, policy, dataset, tmp_path / "out.html"))
    assert page.values["gap"] == [pytest.approx(found.gap, rel=1e-5)]
    assert "60 units" in page.texts["verdict"]
    assert "middle of the scale" in page.texts["units"]
    assert "made from scores alone" in page.texts["rest"]
    assert not (tmp_path / "figures").exists()


def test_a_gain_that_stays_below_the_dataset_is_said_to(record, undrawn):
    d, outcome = read_json(record / "diagnosis.json"), read_json(record / "outcome.json")
    write_json(record / "outcome.json", outcome | {"after": d["j_dataset"] - 0.01})
    page = Page(write_report(record))
    assert page.values["short"] == [pytest.approx(d["j_dataset"], rel=1e-5)]
    write_json(record / "outcome.json", outcome | {"after": d["j_dataset"] + 0.01})
    assert "short" not in Page(write_report(record)).values


def test_what_to_do_before_rl_stands_before_the_plan(record, undrawn):
    plan = read_json(record / "plan.json")
    assert "First train" not in Page(write_report(record)).texts["plan"]
    write_json(record / "plan.json", plan | {"first": "sft_more"})
    assert "First train π₀ further by SFT" in Page(write_report(record)).texts["plan"]


def test_a_run_on_several_processes_is_repeated_on_as_many(record, undrawn):
    assert "accelerate" not in Page(write_report(record)).texts["recipe"]
    told = read_json(record / "environment.json") | {"processes": 2}
    write_json(record / "environment.json", told)
    assert "launch --num_processes 2 -m posttrain run" in Page(write_report(record)).texts["recipe"]


def test_a_running_record_with_a_torn_line_is_reported(record, undrawn):
    whole = Page(write_report(record)).source
    with Record(record).metrics.path.open("a") as log:
        log.write('{"step": 121, "rew')
    assert Page(write_report(record)).source == whole


@pytest.mark.slow
def test_a_hundred_thousand_episodes_are_reported_in_ten_seconds(tmp_path):
    folder = write_record(tmp_path / "large", units=6000)
    assert len(read_scores(folder / "scores.parquet")) == 114_000
    start = time.process_time()
    write_report(folder)
    assert time.process_time() - start < 10


def test_importing_the_report_loads_no_plotting_and_no_torch():
    code = (
        "import sys, json, posttrain.report;"
        "print(json.dumps([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == []
