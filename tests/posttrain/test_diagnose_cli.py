"""`posttrain diagnose` on logs of other tools, by task, and with returns that count time."""

import json

import pytest
from typer.testing import CliRunner

from posttrain import cli
from posttrain.inputs import read_diagnosis
from posttrain.regime.diagnosis import Diagnosis
from posttrain.regime.scores import read_scores, write_scores
from posttrain.regime.tasks import TaskDiagnosis
from posttrain.terminal import draw_row


def command(*args):
    return CliRunner().invoke(cli.app, ["diagnose", *map(str, args)], terminal_width=80)


def log(path, fails, steps, *, header="task_name,trial,is_success,num_steps"):
    """Fifty episodes of each task, of which the first `fails` fail."""
    rows = [
        f"put the {task} on the stove,{i},{int(i >= bad)},{300 if i < bad else steps + i}"
        for task, bad in fails.items()
        for i in range(50)
    ]
    path.write_text("\n".join([header, *rows]))
    return path


@pytest.fixture
def sides(tmp_path):
    """An evaluation that is fast and fails at one task, and demonstrations that are slow."""
    policy = log(tmp_path / "eval.csv", {"moka pot": 0, "cup": 1, "pan": 30}, 60)
    dataset = log(tmp_path / "demos.csv", {"moka pot": 0, "cup": 0, "pan": 0}, 200)
    return "--policy", policy, "--dataset", dataset


def test_logs_are_diagnosed_and_tasks_told_apart(sides):
    log(sides[3], {"moka pot": 30, "cup": 0, "pan": 0}, 200)
    done = command(*sides)
    assert done.exit_code == 3, done.output
    assert "BY TASK" in done.stdout
    assert "Tasks differ (inferior: 'put the pan on the stove'" in " ".join(
        done.stdout.replace("│", "").split()
    )
    worst = next(line for line in done.stdout.splitlines() if ".. pan" in line)
    assert "●" in worst
    assert "inferior" in worst


def test_json_holds_the_tasks_and_stays_a_diagnosis(sides, tmp_path):
    done = command(*sides, "--json")
    plain = json.loads(done.stdout)
    tasks = TaskDiagnosis.from_dict(plain["tasks"])
    assert tasks.tasks[0].task == "put the pan on the stove"
    stored = tmp_path / "d.json"
    stored.write_text(done.stdout)
    del plain["tasks"]
    assert read_diagnosis(stored) == Diagnosis.from_dict(plain)
    assert command(stored, "--json").exit_code == 0


def test_time_makes_superior_visible_beside_success(sides):
    done = command(*sides, "--time-penalty", 1, "--max-steps", 300, "--json")
    plain = json.loads(done.stdout)
    verdicts = {task["task"]: task["regime"] for task in plain["tasks"]["tasks"]}
    assert verdicts["put the moka pot on the stove"] == "superior"
    assert plain["by_success"]["regime"] == "inferior"
    text = command(*sides, "--time-penalty", 1, "--max-steps", 300).stdout
    assert "By success alone: Inferior" in text
    assert "success" in text


def test_scores_with_tasks_show_them_too(sides, tmp_path):
    from posttrain.regime.logs import read_log

    for side in (1, 3):
        write_scores(read_log(sides[side]), sides[side].with_suffix(".parquet"))
    files = [x if isinstance(x, str) else x.with_suffix(".parquet") for x in sides]
    assert read_scores(files[1]).task is not None
    assert command(*files, "--json").stdout == command(*sides, "--json").stdout


def test_one_side_without_tasks_is_told(sides):
    sides[3].write_text("trial,is_success\n0,1\n1,1\n")
    done = command(*sides)
    assert "No verdict by task: dataset: no column 'task'" in done.stderr
    assert "BY TASK" not in done.stdout


def test_a_look_at_any_time_has_no_verdicts_by_task(sides):
    assert "tasks" not in json.loads(command(*sides, "--sequential", "--json").stdout)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--columns", "return"), "wanted WHAT=COLUMN such as return=score, got 'return'"),
        (("--columns", "return=score"), "no column 'score' to take as return"),
        (("--columns", "score=x"), "on the left, got 'score'"),
        (("--time-penalty", 0.5), "needs max_steps"),
        (("--max-steps", 5), "says nothing without a time penalty"),
    ],
)
def test_choices_that_do_not_fit_end_in_a_sentence(sides, args, words):
    done = command(*sides, *args)
    assert done.exit_code == 2
    assert words in done.stderr


def test_columns_say_what_is_meant(sides):
    plain = json.loads(command(*sides, "--columns", "return=num_steps", "--scale", 0, 400,
                               "--json").stdout)  # fmt: skip
    assert plain["j_dataset"] > 200


def test_a_row_is_drawn_within_its_axis():
    assert draw_row(0.0, (-2.0, 2.0), 0.1, 0.5, width=11) == "├────●────┤"
