"""The command line: exit statuses, sentences on standard error, JSON alone on standard output."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from posttrain import cli
from posttrain.record import Record, write_json
from posttrain.regime.diagnosis import Diagnosis, diagnose
from posttrain.regime.scores import Scores, concat, read_scores, write_scores
from posttrain.terminal import draw_gap


def command(*args, env=None):
    return CliRunner().invoke(cli.app, [str(a) for a in args], env=env, terminal_width=80)


def scores(mean, *, source, units=60, **columns):
    returns = [1.0 if i < mean * units else 0.0 for i in range(units)]
    rows = [
        {"unit": f"u{i}", "return": value, "source": source} | columns
        for i, value in enumerate(returns)
    ]
    return Scores.from_rows(rows)


@pytest.fixture
def files(tmp_path):
    """Write one file a side for each name: weak and strong policies, and the dataset."""
    written = {}
    for name, mean, source, units in (
        ("weak", 0.2, "policy", 60),
        ("few", 0.5, "policy", 6),
        ("dataset", 0.9, "dataset", 60),
        ("same", 0.5, "dataset", 6),
    ):
        written[name] = tmp_path / f"{name}.jsonl"
        write_scores(scores(mean, source=source, units=units), written[name])
    return written


def test_a_verdict_ends_with_status_0(files):
    done = command("diagnose", "--policy", files["weak"], "--dataset", files["dataset"])
    assert done.exit_code == 0
    assert "INFERIOR" in done.stdout
    assert "J(pi_0) = 0.2, J(D) = 0.9" in done.stdout


def test_undecided_ends_with_status_3(files):
    done = command("diagnose", "--policy", files["few"], "--dataset", files["same"])
    assert done.exit_code == 3
    assert "UNDECIDED" in done.stdout


def test_json_is_the_diagnosis_and_nothing_else(files):
    done = command("diagnose", "--policy", files["weak"], "--dataset", files["dataset"], "--json")
    want = diagnose(read_scores(files["weak"]), read_scores(files["dataset"]))
    assert Diagnosis.from_json(done.stdout) == want


def test_settings_reach_the_test(files):
    sides = ("--policy", files["weak"], "--dataset", files["dataset"])
    done = command("diagnose", *sides, "--json", "--margin", 0.1, "--alpha", 0.01,
                   "--scale", -1, 1, "--deployment", files["few"])  # fmt: skip
    want = diagnose(
        read_scores(files["weak"]),
        read_scores(files["dataset"]),
        margin=0.1,
        alpha=0.01,
        scale=(-1, 1),
        deployment=read_scores(files["few"]),
    )
    assert Diagnosis.from_json(done.stdout) == want


def test_a_sequential_interval_is_the_wider_one(files):
    sides = ("--policy", files["weak"], "--dataset", files["dataset"], "--json")
    once, always = (
        Diagnosis.from_json(command("diagnose", *sides, *extra).stdout)
        for extra in ((), ("--sequential",))
    )
    assert always.test == "sequential"
    assert always.interval.low < once.interval.low
    assert once.interval.high < always.interval.high


def test_one_file_with_both_sources_will_do(files, tmp_path):
    both = concat(read_scores(files["weak"]), read_scores(files["dataset"]))
    write_scores(both, tmp_path / "both.csv")
    done = command("diagnose", tmp_path / "both.csv", "--json")
    want = diagnose(read_scores(files["weak"]), read_scores(files["dataset"]))
    assert Diagnosis.from_json(done.stdout) == want


@pytest.fixture
def run(tmp_path):
    """A run's folder: weak on held-out units, strong on seen ones, stronger when deployed."""
    folder = tmp_path / "run"
    record = Record(folder)
    record.begin("name: run\nrl: {steps: 40}\n", seed=0)
    table = concat(
        scores(0.2, source="policy", split="heldout", decoding="rollout"),
        scores(0.6, source="policy", split="heldout", decoding="deployment"),
        scores(1.0, source="policy", split="seen", decoding="rollout"),
        scores(0.9, source="dataset", split="heldout"),
        scores(0.0, source="dataset", split="seen"),
    )
    write_scores(table, record.scores_file)
    return record


def test_held_out_rollouts_decide_for_a_run(run):
    result = Diagnosis.from_json(command("diagnose", run.path, "--json").stdout)
    assert (result.j_policy, result.j_dataset) == (0.2, 0.9)
    assert [(d.name, d.j_policy) for d in result.decodings] == [
        ("rollout", 0.2),
        ("deployment", 0.6),
    ]


def test_a_runs_own_diagnosis_is_shown_unless_other_settings_are_asked_for(run):
    stored = diagnose([0.0, 1.0] * 30, [1.0] * 60, margin=0.2)
    write_json(run.diagnosis_file, stored.to_dict())
    assert Diagnosis.from_json(command("diagnose", run.path, "--json").stdout) == stored
    again = Diagnosis.from_json(command("diagnose", run.path, "--json", "--alpha", 0.1).stdout)
    assert (again.j_policy, again.alpha, again.margin) == (0.2, 0.1, 0.2)


def test_a_report_is_written_on_the_way(files, tmp_path):
    pytest.importorskip("matplotlib")
    sides = ("--policy", files["weak"], "--dataset", files["dataset"])
    done = command("diagnose", *sides, "--report", tmp_path / "page.html", "--json")
    assert done.exit_code == 0
    json.loads(done.stdout)
    assert "<html" in (tmp_path / "page.html").read_text().lower()


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_prescriptions_follow_from_files_a_run_or_a_diagnosis(files, run, tmp_path, args):
    stored = diagnose(read_scores(files["weak"]), read_scores(files["dataset"]))
    write_json(tmp_path / "d.json", stored.to_dict())
    sides = ("--policy", files["weak"], "--dataset", files["dataset"])
    first = command("prescribe", *sides, *args)
    assert first.exit_code == 0
    assert command("prescribe", tmp_path / "d.json", *args).stdout == first.stdout
    assert command("prescribe", run.path, *args).exit_code == 0


def test_strengths_change_over_the_steps_that_are_planned(files, run):
    sides = ("--policy", files["weak"], "--dataset", files["dataset"])

    def steps(*args):
        plan = json.loads(command("prescribe", *args, "--json").stdout)[0]["plan"]
        (replay,) = (i for i in plan["interventions"] if i["kind"] == "replay")
        return replay["weight"]["steps"]

    assert steps(*sides, "--steps", 20) * 2 == steps(run.path)  # whose recipe says 40
    assert steps(*sides, "--steps", 50) * 2 == steps(*sides)


BAD = [
    (("diagnose",), "wanted either --policy and --dataset, or one file"),
    (("diagnose", "--policy", "x.jsonl"), "wanted either --policy and --dataset"),
    (("diagnose", "x.jsonl", "--policy", "x.jsonl"), "wanted either --policy and --dataset"),
    (("diagnose", "--policy", "no.jsonl", "--dataset", "no.jsonl"), "no.jsonl: cannot be read"),
    (("diagnose", "."), "no scores.parquet in this folder"),
    (("diagnose", "bad.json"), "bad.json: not JSON"),
    (("diagnose", "other.json"), "other.json: not a diagnosis"),
    (("diagnose", "one.jsonl"), "no column 'source' to tell policy from dataset"),
    (("diagnose", "--policy", "one.jsonl", "--dataset", "one.jsonl", "--margin", "2"), "margin"),
    (("diagnose", "--policy", "one.jsonl", "--dataset", "one.jsonl", "--scale", "0", "0.5"), "0.5"),
    (("prescribe", "no.json"), "no.json: no such file"),
    (("report", "no"), "no: no such folder"),
    (("report", "."), "."),
    (("recipes", "no"), "no such file, and no packaged recipe has this name"),
    (("assets", "no"), "no asset is named 'no'; there are smollm2 and headlines"),
    (("run", "no"), "no such file, and no packaged recipe has this name"),
]


@pytest.mark.parametrize(("args", "sentence"), BAD)
def test_bad_input_ends_with_status_2_and_a_sentence(tmp_path, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "one.jsonl").write_text('{"return": 1.0}\n{"return": 0.0}\n{"return": 1.0}\n')
    done = command(*args)
    assert done.exit_code == 2
    assert done.stderr.startswith("posttrain: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "args", [("--bogus",), ("bogus",), ("diagnose", "--bogus"), ("diagnose", "--margin", "x")]
)
def test_misuse_ends_with_status_2(args):
    assert command(*args).exit_code == 2


def test_a_defect_is_shown_with_its_traceback(files, monkeypatch):
    def broken(*_, **__):
        return int("x")

    monkeypatch.setattr("json.dumps", broken)
    done = command("diagnose", "--policy", files["weak"], "--dataset", files["dataset"], "--json")
    assert isinstance(done.exception, ValueError)


def test_the_traceback_of_a_user_error_can_be_asked_for():
    done = command("recipes", "no", env={"POSTTRAIN_TRACEBACK": "1"})
    assert type(done.exception).__name__ == "RecipeError"


def ending(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("posttrain.run.run", fail)
    return command("run", "llm/x")


def test_ctrl_c_says_how_to_go_on(monkeypatch):
    done = ending(monkeypatch, KeyboardInterrupt())
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr


def test_an_absent_package_is_named_with_its_extra(monkeypatch):
    done = ending(monkeypatch, ModuleNotFoundError("No module named 'trl'", name="trl"))
    assert done.exit_code == 2
    assert "trl is not installed: pip install 'posttrain[llm]'" in done.stderr
    done = ending(monkeypatch, ModuleNotFoundError("No module named 'jinja2'", name="jinja2"))
    assert "posttrain[report]" in done.stderr


def test_a_full_disk_is_no_traceback(monkeypatch):
    done = ending(monkeypatch, OSError(28, "No space left on device", "runs/a/rl"))
    assert done.exit_code == 2
    assert done.stderr == "posttrain: runs/a/rl: No space left on device\n"


def test_only_the_first_process_speaks(monkeypatch, run, tmp_path):
    monkeypatch.setattr("posttrain.run.run", lambda *_, **__: run.path)
    first = command("run", "x", env={"RANK": "0"})
    second = command("run", "x", env={"RANK": "1"})
    assert first.stdout.strip().endswith(run.path.name)
    assert (second.exit_code, second.stdout, second.stderr) == (0, "", "")


def test_every_process_ends_with_status_2_but_one_complains_of_the_recipe(monkeypatch):
    from posttrain.recipe import RecipeError

    monkeypatch.setenv("RANK", "1")
    done = ending(monkeypatch, RecipeError("a: wrong"))
    assert (done.exit_code, done.stderr) == (2, "")
    done = ending(monkeypatch, OSError(28, "No space left on device", "x"))
    assert done.stderr == "posttrain, process 1: x: No space left on device\n"


def test_overrides_and_options_reach_the_run(monkeypatch, run):
    seen = {}

    def remember(name, overrides, **options):
        seen.update(name=name, overrides=tuple(overrides), **options)
        return run.path

    monkeypatch.setattr("posttrain.run.run", remember)
    done = command("run", "llm/x", "rl.steps=3", "--stop-after", "sft", "seed=1", "--fresh")
    assert done.exit_code == 0
    assert seen == {
        "name": "llm/x",
        "overrides": ("rl.steps=3", "seed=1"),
        "fresh": True,
        "stop_after": "sft",
    }


def test_a_finished_run_ends_with_its_verdict_its_gain_and_its_report(monkeypatch, run):
    write_json(run.diagnosis_file, diagnose([0.0, 1.0] * 30, [1.0] * 60).to_dict())
    write_json(run.outcome_file, {"before": 0.2, "after": 0.5, "gain": 0.3, "units": 60,
                                  "interval": [0.1, 0.5], "alpha": 0.05})  # fmt: skip
    run.report_file.write_text("<html>")
    monkeypatch.setattr("posttrain.run.run", lambda *_, **__: run.path)
    words = " ".join(command("run", "x").stdout.split())
    assert "INFERIOR" in words
    assert "0.200 -> 0.500, gain +0.300 (95 % interval +0.100 to +0.500, 60 units)" in words
    assert words.endswith("report.html")


def test_recipes_are_listed_and_printed():
    from posttrain.recipe import list_recipes

    listed = command("recipes").stdout
    for recipe in list_recipes():
        assert recipe.name in listed
        assert command("recipes", recipe.name).stdout == recipe.path.read_text()


def test_assets_are_listed_with_their_licences(tmp_path):
    listed = command("assets", env={"POSTTRAIN_CACHE": str(tmp_path)}).stdout
    assert "Apache-2.0" in listed
    assert "headlines" in listed


def python(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


def test_help_loads_nothing_heavy_and_answers_at_once():
    code = (
        "import sys\nfrom posttrain.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pyarrow', 'matplotlib', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        python("-m", "posttrain", "--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_a_diagnosis_of_files_needs_no_torch(files):
    code = (
        "import sys\nfrom posttrain.cli import app\n"
        f"try: app(['diagnose', '--policy', {str(files['weak'])!r}, "
        f"'--dataset', {str(files['dataset'])!r}])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'trl', 'matplotlib'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


gaps = st.floats(-1, 1)


@given(gaps, gaps, gaps, st.floats(0.001, 0.999), st.integers(31, 100))
def test_the_picture_fits_and_puts_the_estimate_inside_its_interval(a, b, c, margin, width):
    low, gap, high = sorted((a, b, c))
    band, bar, labels = draw_gap(gap, (low, high), margin, width=width)
    assert len(band) == width
    assert max(len(bar), len(labels)) <= width
    assert bar.count("●") == 1
    assert set(bar[: bar.index("●")]) <= set(" ├─")
    assert set(bar[bar.index("●") + 1 :]) <= set("─┤")


@given(gaps, gaps, gaps, st.floats(0.001, 0.999))
def test_a_mirrored_gap_gives_the_mirrored_picture(a, b, c, margin):
    low, gap, high = sorted((a, b, c))
    width = 61
    _, bar, _ = draw_gap(gap, (low, high), margin, width=width)
    _, mirrored, _ = draw_gap(-gap, (-high, -low), margin, width=width)
    turned = bar.ljust(width)[::-1].translate(str.maketrans("├┤", "┤├")).rstrip()
    assert abs(turned.index("●") - mirrored.index("●")) <= 1  # halves round to even


def test_a_scale_that_bounds_nothing_can_be_said(tmp_path):
    ahead = Scores([3500.0, 3400.5, 3450.25, 3321.0, 3399.0])
    behind = Scores([1400.0, 1500.5, 1450.25, 1321.0, 1399.0])
    both = [tmp_path / name for name in ("policy.jsonl", "dataset.jsonl")]
    for scores_of, path in zip((ahead, behind), both, strict=True):
        write_scores(scores_of, path)
    sides = ["diagnose", "--policy", both[0], "--dataset", both[1], "--scale", -20, 3234]
    assert command(*sides).exit_code == 2
    found = command(*sides, "--unbounded", "--json")
    assert found.exit_code == 0
    assert not Diagnosis.from_json(found.stdout).bounded
    refused = command(*sides, "--unbounded", "--sequential")
    assert refused.exit_code == 2
    assert "lowest and a highest" in refused.stderr
