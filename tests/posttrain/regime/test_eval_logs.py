import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from posttrain.regime.logs import Reading, by_success, read_any, read_log
from posttrain.regime.scores import ScoresError

ROWS = [
    {"task_name": "cup", "init_state_id": 0, "is_success": True, "num_steps": 100, "video": "a"},
    {"task_name": "cup", "init_state_id": 1, "is_success": False, "num_steps": 200, "video": "b"},
    {"task_name": "pot", "init_state_id": 0, "is_success": True, "num_steps": 50, "video": "c"},
]


def save(folder, name, rows):
    path = folder / name
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_a_log_is_read_alike_in_every_format(tmp_path, suffix):
    scores = read_log(save(tmp_path, f"log.{suffix}", ROWS), source="policy")
    assert scores.returns.tolist() == [1.0, 0.0, 1.0]
    assert scores.success.tolist() == [True, False, True]
    assert scores.task.tolist() == ["cup", "cup", "pot"]
    assert scores.unit.tolist() == ["cup/0", "cup/1", "pot/0"]
    assert scores.steps.tolist() == [100, 200, 50]
    assert set(scores.source) == {"policy"}
    assert read_any(tmp_path / f"log.{suffix}", source="policy").rows() == scores.rows()


def test_a_time_penalty_makes_fast_episodes_better(tmp_path):
    path = save(tmp_path, "log.csv", ROWS)
    scores = read_log(path, reading=Reading(time_penalty=0.5, max_steps=200))
    assert scores.returns.tolist() == [0.75, 0.0, 0.875]
    assert by_success(scores).returns.tolist() == [1.0, 0.0, 1.0]


def test_tables_of_scores_take_a_time_penalty_too(tmp_path):
    rows = [{"return": 1.0, "unit": "a", "success": True, "steps": 300}]
    scores = read_any(
        save(tmp_path, "s.jsonl", rows), reading=Reading(time_penalty=0.5, max_steps=200)
    )
    assert scores.returns.tolist() == [0.5]
    assert scores.unit.tolist() == ["a"]


def test_lerobots_log_of_several_tasks(tmp_path):
    won = {"successes": [True, False], "sum_rewards": [2.0, 0.0], "max_rewards": [1.0, 0.0]}
    log = {
        "per_task": [
            {"task_group": "libero_10", "task_id": 3, "metrics": won},
            {"task_group": "libero_goal", "task_id": 3, "metrics": won},
        ],
        "per_group": {},
        "overall": {"pc_success": 50.0},
    }
    path = save(tmp_path, "eval_info.json", log)
    scores = read_any(path)
    assert scores.unit.tolist() == [
        "libero_10/3/0", "libero_10/3/1", "libero_goal/3/0", "libero_goal/3/1"
    ]  # fmt: skip
    assert scores.returns.tolist() == [1.0, 0.0, 1.0, 0.0]
    summed = read_log(path, reading=Reading(columns={"return": "lerobot_sum_reward"}))
    assert summed.returns.tolist() == [2.0, 0.0, 2.0, 0.0]
    with pytest.raises(ScoresError, match="needs the column 'steps'"):
        read_log(path, reading=Reading(time_penalty=0.5, max_steps=200))


def test_lerobots_log_of_one_task(tmp_path):
    episodes = [
        {"episode_ix": i, "sum_reward": 3.5, "max_reward": 1.0, "success": i > 0, "seed": seed}
        for i, seed in enumerate((1000, 1001, 1002))
    ]
    log = {"per_episode": episodes, "aggregated": {"pc_success": 66.7}}
    scores = read_any(save(tmp_path, "eval_info.json", log))
    assert scores.returns.tolist() == [0.0, 1.0, 1.0]
    assert scores.unit.tolist() == ["1000", "1001", "1002"]
    for episode in episodes:
        episode["seed"] = None
    assert read_any(save(tmp_path, "eval_info.json", log)).unit.tolist() == ["0", "1", "2"]


def test_a_seed_of_the_run_is_no_start(tmp_path):
    rows = [
        {"task": "a", "seed": seed, "episode": i, "success": 1} for seed in (0, 1) for i in range(3)
    ]
    units = read_log(save(tmp_path, "log.csv", rows)).unit.tolist()
    assert units == ["a/0", "a/1", "a/2"] * 2


def test_a_seed_of_each_episode_is_its_start(tmp_path):
    rows = [{"task": "a", "episode": i, "seed": 100 + i, "success": 1} for i in range(3)]
    assert read_log(save(tmp_path, "l.csv", rows)).unit.tolist() == ["a/100", "a/101", "a/102"]


def test_without_a_start_every_episode_is_a_unit(tmp_path):
    assert read_log(save(tmp_path, "log.csv", [{"success": 1}, {"success": 0}])).unit is None


def test_names_of_one_task_may_stand_there_twice(tmp_path):
    rows = [
        {"task_id": i % 2, "instruction": "lift" if i % 2 else "push", "env": "x", "success": 1}
        for i in range(4)
    ]
    assert read_log(save(tmp_path, "log.jsonl", rows)).task.tolist() == ["0", "1", "0", "1"]
    rows[3]["instruction"] = "press"
    with pytest.raises(
        ScoresError, match=r"2 columns could be the task: task_id, instruction; say"
    ):
        read_log(save(tmp_path, "log.jsonl", rows))
    chosen = Reading(columns={"task": "instruction"})
    assert read_log(tmp_path / "log.jsonl", reading=chosen).task.tolist()[3] == "press"


def test_one_log_may_hold_both_sources(tmp_path):
    rows = [{"source": "policy", "is_success": 1}, {"source": "dataset", "is_success": 0}]
    path = save(tmp_path, "log.csv", rows)
    assert read_any(path, source="dataset").returns.tolist() == [0.0]
    with pytest.raises(ScoresError, match="no row has source 'dataset'"):
        read_any(save(tmp_path, "p.csv", rows[:1]), source="dataset")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"reward": 1, "episode_return": 2}], "2 columns could be the return: reward, episode"),
        ([{"is_success": 0.5}], r"row 1, column 'is_success': wanted true or false, or 1 or 0"),
        ([{"num_steps": 3}], r"no column for returns and none for success \(there: num_steps"),
        ([{"reward": "high"}], "row 1, column 'reward': wanted a number, got 'high'"),
        ([], "no episodes"),
    ],
)
def test_what_does_not_suffice_is_refused_with_what_is_there(tmp_path, rows, words):
    path = save(tmp_path, "log.jsonl", rows)
    with pytest.raises(ScoresError, match=words):
        read_log(path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"columns": {"score": "x"}}, "on the left, got 'score'"),
        ({"time_penalty": 0.5}, "needs max_steps"),
        ({"time_penalty": 2.0, "max_steps": 10}, r"must lie in \(0, 1\], got 2"),
        ({"max_steps": 10}, "says nothing without"),
    ],
)
def test_a_reading_must_make_sense(given, words):
    with pytest.raises(ScoresError, match=words):
        Reading(**given)


def test_scores_stay_strict(tmp_path):
    path = save(tmp_path, "s.jsonl", [{"return": 1, "unti": "a"}])
    with pytest.raises(ScoresError, match="did you mean 'unit'"):
        read_any(path)
    with pytest.raises(ScoresError, match="no column 'score' to take as return"):
        read_any(path, reading=Reading(columns={"return": "score"}))
    with pytest.raises(ScoresError, match="cannot be read"):
        read_any(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the file: not JSON"),
        ("3", "wanted a list of episodes or an object, got int"),
        ('{"overall": 1}', r"no list of episodes in it: .*\(there: overall\)"),
        ('{"per_task": [{"task_id": 1}]}', "'per_task' must hold task_group"),
        ("[1]", "row 1: wanted an object, got int"),
    ],
)
def test_json_of_another_kind_is_refused(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ScoresError, match=words):
        read_log(path)
