import json

import numpy as np
import pytest
from html_reader import Page
from robot_record import write_robot_record

from posttrain.record import RecordError, read_json, write_json
from posttrain.report import write_report
from posttrain.report.part_tasks import MOST


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = write_robot_record(tmp_path_factory.mktemp("runs") / "grid")
    write_report(folder)
    return folder


@pytest.fixture
def spoilt(tmp_path, undrawn):
    return write_robot_record(tmp_path / "grid", tasks=2, starts=8)


def test_a_row_of_films_holds_every_side_of_one_start_and_says_how_it_ended(robot):
    page = Page(robot / "report.html")
    pictures = [t for n, t in page.tags if n == "img"]
    assert len(pictures) == 2 * 3 * 2  # starts, sides, film and strip
    assert all(t["src"].startswith(("data:image/gif;base64,", "data:image/png;base64,"))
               for t in pictures)  # fmt: skip
    told = [t["alt"] for t in pictures]
    assert told[:3] == [
        f"{side}, “go to the red block, start 0”: {end}"
        for side, end in (
            ("D", "success in 6 steps, return 1.00"),
            ("π₀", "no success in 6 steps, return 0.00"),
            ("after RL", "success in 6 steps, return 1.00"),
        )
    ]
    assert page.texts["films"].count("✗") == 2  # under the film and the strip
    assert page.texts["films"].count("✓") == 10


def test_who_wants_no_motion_gets_a_still_picture(robot):
    page = Page(robot / "report.html")
    sources = [t for n, t in page.tags if n == "source"]
    assert len(sources) == 6
    assert all("prefers-reduced-motion: reduce" in t["media"] for t in sources)
    assert all(t["srcset"].startswith("data:image/png;base64,") for t in sources)


def test_the_page_of_a_robot_still_needs_nothing_but_itself(robot):
    page = Page(robot / "report.html")
    assert "http" not in page.source.replace("http-equiv", "")
    assert {n for n, _ in page.tags} & {"script", "link", "iframe"} == set()
    policy = next(t for n, t in page.tags if n == "meta" and "http-equiv" in t)["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_start_without_a_film_of_one_side_is_still_shown(spoilt):
    index = spoilt / "films" / "index.json"
    rows = [r for r in read_json(index) if r["side"] != "finetuned"]
    rows[0] |= {"unit": "D/7", "success": None, "return": None}
    write_json(index, rows)
    page = Page(write_report(spoilt))
    assert "no film of after RL" in page.texts["films"]
    assert "6 steps, success unknown" in page.texts["films"]
    assert "D/7" in page.texts["films"]


@pytest.mark.parametrize("name", ["../recipe.yaml", "gone.gif", "index.json"])
def test_an_index_that_names_something_else_is_refused(spoilt, name):
    index = spoilt / "films" / "index.json"
    rows = read_json(index)
    rows[0]["gif"] = name
    write_json(index, rows)
    with pytest.raises(RecordError, match="which is no picture beside it"):
        write_report(spoilt)


def test_instructions_cannot_become_markup(spoilt):
    index = spoilt / "films" / "index.json"
    evil = '"><script>alert(1)</script>'
    write_json(index, [row | {"instruction": evil} for row in read_json(index)])
    page = Page(write_report(spoilt))
    assert "script" not in {n for n, _ in page.tags}
    assert evil in page.texts["films"]


@pytest.mark.parametrize(
    ("file", "section", "said"),
    [
        ("films/index.json", "films", "The record holds no films"),
        ("tasks.json", "tasks", "The record holds no verdict by task"),
    ],
)
def test_what_a_robot_record_lacks_is_said(spoilt, file, section, said):
    (spoilt / file).unlink()
    assert said in Page(write_report(spoilt)).texts[section]


def test_tasks_say_their_pooled_gaps_and_the_mean(robot):
    page, found = Page(robot / "report.html"), read_json(robot / "tasks.json")
    assert page.values["tasks-count"] == [6]
    assert page.values["mean-gap"] == [pytest.approx(found["mean_gap"], rel=1e-5)]
    said = page.values["tasks"]
    for task in found["tasks"]:
        for key in ("j_policy", "j_dataset", "gap", "pooled"):
            assert pytest.approx(task[key], rel=1e-5) in said
    alt = next(t["aria-label"] for n, t in page.tags if "Gap of each" in t.get("aria-label", ""))
    assert all(task["task"] in alt for task in found["tasks"])


def test_many_tasks_leave_none_out_in_silence(tmp_path, undrawn):
    folder = write_robot_record(tmp_path / "grid", tasks=31, starts=6)
    page, found = Page(write_report(folder)), read_json(folder / "tasks.json")
    assert page.values["left-out"] == [31 - 2 * (MOST // 2)]
    assert all(page.texts["tasks"].count(task["task"]) == 1 for task in found["tasks"])


def test_signal_parity_account_and_floor_are_said(robot):
    page = Page(robot / "report.html")
    signal, metrics = read_json(robot / "signal.json"), (robot / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in metrics.splitlines()]
    early = np.mean([row["frac_reward_zero_std"] for row in rows[:10]])
    assert page.values["silent"] == [pytest.approx(signal["share"], rel=1e-5)]
    assert page.values["silent-early"] == [pytest.approx(early, rel=1e-5)]
    assert "J(D) is replayed" in page.texts["account"]
    assert page.values["floor"][0] == 0.11
    assert page.values["parity"] == [90, -0.03, -0.07, 0.01]
    assert "disagree" not in page.texts["parity"]
    assert "success of training episodes" in page.texts["training"]


def test_a_disagreement_of_environments_is_not_buried(spoilt):
    told = read_json(spoilt / "parity.json")
    write_json(spoilt / "parity.json", told | {"ok": False})
    assert (
        "RL's environment and the diagnosis' disagree"
        in (Page(write_report(spoilt)).texts["parity"])
    )


def test_both_decodings_of_pi_0_stand_beside_d(robot):
    texts = Page(robot / "report.html").texts["episodes"]
    for name in ("π₀, sampled as in RL", "π₀, as deployed", "D, held out"):
        assert name in texts
    assert "seen in SFT" not in texts


def test_the_decoding_that_decides_is_named(spoilt):
    (spoilt / "recipe.yaml").write_text("kind: vla\nname: x\ndiagnose: {decides: deployment}\n")
    said = Page(write_report(spoilt)).texts["verdict"]
    assert "starts, deployment decoding" in said
    assert "\nrollout decoding" in said
    assert "\ndeployment decoding" not in said
