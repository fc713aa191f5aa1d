"""A study's life: skipped, resumed, failed, killed, dealt to processes; the same cells always."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_kind import ALONE, TOGETHER
from test_study_cells import BASE, STUDY
from typer.testing import CliRunner

from posttrain import cli
from posttrain.files import locked
from posttrain.record import Record, RecordError
from posttrain.study import kind, load_study
from posttrain.study.cells import flat, lay_out
from posttrain.study.live import Live
from posttrain.study.run import run_study, write_table
from posttrain.study.settings import StudyError

HERE = Path(__file__).parent


def write(folder, output="out"):
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(BASE)
    path = folder / "study.yaml"
    path.write_text(STUDY.format(output=folder / output, recipe=folder / "base.yaml"))
    return path


@pytest.fixture
def written(tmp_path):
    return write(tmp_path)


def states(outcomes):
    return {outcome.name: outcome.state for outcome in outcomes}


def events(log):
    return [line for line in log.read_text().splitlines() if not line.startswith("together")]


def cells_of(root):
    """What a user reads in every record, without clocks, versions and places."""
    names = ("diagnosis.json", "plan.json", "outcome.json")
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for name in names
        for path in sorted(root.rglob(name))
        if ".stages" not in path.parts
    }


def test_every_cell_is_run_once_from_what_its_setting_shares(written, tmp_path):
    log = tmp_path / "log"
    found = states(run_study(load_study(written, [f"overrides.log={log}"]), kinds=ALONE))
    assert len(found) == 12
    assert set(found.values()) == {"done"}
    assert len(events(log)) == len(set(events(log))) == 4 + 8 * 3
    root = tmp_path / "out" / "small"
    for setting in ("weak", "strong"):
        shared = Record(root / setting / "pi0" / "seed-3")
        assert set(shared.stages()) == {"diagnose"}
        cell = Record(root / setting / "replay" / "seed-3")
        assert set(cell.stages()) == {"diagnose", "finetune", "outcome"}
        assert cell.diagnosis() == shared.diagnosis()


def test_a_finished_study_does_nothing_again(written, tmp_path):
    log = tmp_path / "log"
    study = load_study(written, [f"overrides.log={log}"])
    run_study(study, kinds=ALONE)
    before = log.read_text()
    assert set(states(run_study(study, kinds=ALONE)).values()) == {"found"}
    assert log.read_text() == before


def test_more_seeds_and_arms_add_cells_and_touch_no_other(written, tmp_path):
    log = tmp_path / "log"
    run_study(load_study(written, [f"overrides.log={log}", "seeds=[3]"]), kinds=ALONE)
    found = states(run_study(load_study(written, [f"overrides.log={log}"]), kinds=ALONE))
    assert all((state == "found") == name.endswith("seed-3") for name, state in found.items())


def test_cells_of_another_recipe_are_refused_before_anything_runs(written, tmp_path):
    run_study(load_study(written, ["seeds=[3]"]), kinds=ALONE)
    changed = load_study(written, ["arms.1.overrides.finetune.gain=0.5", "seeds=[3, 4]"])
    with pytest.raises(RecordError, match=r"replay/seed-3 was made by another recipe: finetune"):
        run_study(changed, kinds=ALONE)
    assert not list(tmp_path.rglob("seed-4"))


def test_a_failed_cell_is_reported_and_the_others_go_on(written, tmp_path):
    fail = "arms.1.overrides.finetune={steps: 3, fails: [4]}"
    for kinds in (ALONE, TOGETHER):
        study = load_study(write(tmp_path / str(kinds["fake"].together)), [fail])
        outcomes = run_study(study, kinds=kinds)
        bad = {o.name: o.reason for o in outcomes if o.state == "failed"}
        assert bad == {
            f"{setting}/replay/seed-4": "ValueError: seed 4 diverged"
            for setting in ("weak", "strong")
        }
        error = study.folder / "weak" / "replay" / "seed-4" / "error.txt"
        assert "in _finetune" in error.read_text()
        assert error.read_text().rstrip().endswith("ValueError: seed 4 diverged")
        again = states(run_study(study, kinds=kinds))
        assert sorted(again.values()) == ["failed"] * 2 + ["found"] * 10


def test_what_failed_is_tried_again_and_its_error_is_gone(written, tmp_path, monkeypatch):
    import fake_kind

    def refuse(recipe, record):
        raise OSError("the disk is full")

    study = load_study(written)
    with monkeypatch.context() as patched:
        patched.setitem(fake_kind._STAGE, "outcome", refuse)
        first = states(run_study(study, kinds=TOGETHER))
    assert list(first.values()).count("failed") == 8
    errors = list(tmp_path.rglob("error.txt"))
    assert len(errors) == 8
    second = states(run_study(study, kinds=TOGETHER))
    assert list(second.values()).count("done") == 8
    assert not list(tmp_path.rglob("error.txt"))


def test_an_error_before_the_record_began_does_not_block_the_folder(written, monkeypatch):
    import fake_kind

    study = load_study(written)
    with monkeypatch.context() as patched:
        patched.setattr(fake_kind, "run", lambda *_, **__: 1 / 0)
        assert set(states(run_study(study, kinds=ALONE)).values()) == {"failed"}
    assert set(states(run_study(study, kinds=ALONE)).values()) == {"done"}


def test_without_its_start_a_cell_is_not_tried(written, tmp_path, monkeypatch):
    import fake_kind

    def refuse(recipe, record):
        if recipe.seed == 4:
            raise OSError("no data")
        diagnose(recipe, record)

    diagnose = fake_kind._diagnose
    monkeypatch.setitem(fake_kind._STAGE, "diagnose", refuse)
    outcomes = run_study(load_study(written), kinds=TOGETHER)
    reasons = {o.name: o.reason for o in outcomes if o.state == "failed"}
    assert reasons["weak/pi0/seed-4"] == "OSError: no data"
    assert reasons["weak/anchor/seed-4"] == "weak/pi0/seed-4, its start, failed"
    assert len(reasons) == 6
    assert not (tmp_path / "out" / "small" / "weak" / "anchor" / "seed-4").exists()


def test_a_group_is_one_call_without_its_finished_cells(written, tmp_path):
    log = tmp_path / "log"
    run_study(load_study(written, [f"overrides.log={log}", "seeds=[3]"]), kinds=TOGETHER)
    run_study(load_study(written, [f"overrides.log={log}"]), kinds=TOGETHER)
    calls = [line.split()[1:3] for line in log.read_text().splitlines() if "together" in line]
    assert calls == ([["diagnose:", "1"]] * 2 + [["None:", "2"]] * 2) * 2


def test_processes_make_the_same_cells_as_one(written, tmp_path):
    log = tmp_path / "log"
    run_study(load_study(written), kinds=ALONE)
    other = load_study(write(tmp_path / "other"), [f"overrides.log={log}"])
    plain = load_study(write(tmp_path / "plain"))
    found = run_study(other, kinds=TOGETHER, jobs=2)
    assert set(states(found).values()) == {"done"}
    pids = {line.split()[-1] for line in log.read_text().splitlines() if "together" in line}
    assert str(os.getpid()) not in pids
    run_study(plain, kinds=ALONE, jobs=2, backend="threading")
    one = cells_of(tmp_path / "out")
    assert len(one) == 4 + 3 * 8
    assert cells_of(tmp_path / "other" / "out") == one == cells_of(tmp_path / "plain" / "out")


def test_a_worker_that_dies_takes_no_other_cell_with_it(written, tmp_path):
    study = load_study(written, ["arms.1.overrides.finetune.dies=[4]"])
    outcomes = run_study(study, kinds=ALONE, jobs=2)
    bad = {o.name: o.reason for o in outcomes if o.state == "failed"}
    died = "its process died, perhaps for lack of memory"
    assert bad == {"weak/replay/seed-4": died, "strong/replay/seed-4": died}
    assert len(outcomes) == 12
    assert {p.parent.name for p in tmp_path.rglob("error.txt")} == {"seed-4"}


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from fake_kind import ALONE, TOGETHER
from posttrain.study import load_study
from posttrain.study.cells import flat, lay_out
from posttrain.study.live import Live
from posttrain.study.run import run_study

study = load_study(sys.argv[2], sys.argv[5:])
outcomes = run_study(study, part=sys.argv[3], jobs=int(sys.argv[4]), kinds=ALONE)
sys.exit(any(outcome.state == "failed" for outcome in outcomes))
"""


def start(written, part="0/1", jobs=1, *overrides):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(HERE), str(written), part, str(jobs), *overrides],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_shards_at_once_make_each_cell_once(written, tmp_path):
    log = tmp_path / "log"
    shared = [f"overrides.log={log}"]
    processes = [start(written, f"{i}/2", 1, *shared) for i in (0, 1)]
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        process.stderr.close()
    assert len(events(log)) == len(set(events(log))) == 4 + 8 * 3
    run_study(load_study(write(tmp_path / "one")), kinds=ALONE)
    assert cells_of(tmp_path / "out") == cells_of(tmp_path / "one" / "out")


def test_what_another_process_works_on_is_waited_for(written, tmp_path):
    root, found = tmp_path / "out" / "small", []
    study = load_study(written, ["seeds=[3]"])
    thread = threading.Thread(
        target=lambda: found.extend(run_study(study, kinds=ALONE, backend="threading"))
    )
    with locked(root / ".locks" / "weak-pi0-seed-3.lock"):
        thread.start()
        time.sleep(1.5)
        assert not (root / "weak" / "pi0").exists()
    thread.join(60)
    assert set(states(found).values()) == {"done"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_killed_at_any_time_goes_on(written, tmp_path, jobs):
    log = tmp_path / "log"
    overrides = [f"overrides.log={log}", "overrides.finetune.sleeps=0.1"]
    study = load_study(written, overrides)
    for wanted in (2, 6)[: 3 - jobs]:
        process = start(written, "0/1", jobs, *overrides)
        end = time.monotonic() + 60
        while len(list(study.folder.rglob("outcome.json"))) < wanted:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob(".stages/outcome.json")}
    found = states(run_study(study, kinds=ALONE))
    assert set(found.values()) <= {"found", "done"}
    assert list(found.values()).count("done") >= 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    run_study(load_study(write(tmp_path / "one")), kinds=ALONE)
    assert cells_of(tmp_path / "out") == cells_of(tmp_path / "one" / "out")


def test_an_interrupted_study_says_so_and_leaves_no_worker_behind(written, tmp_path):
    process = start(written, "0/1", 2, "overrides.finetune.sleeps=30.0")
    end = time.monotonic() + 60
    while len(list(tmp_path.rglob("pi0/*/.stages/diagnose.json"))) < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    process.stderr.close()
    with locked(next((tmp_path / "out" / "small" / ".locks").glob("weak-*.lock")), wait=False):
        pass


def test_lines_tell_what_became_of_each_cell(written, capsys):
    run_study(load_study(written, ["seeds=[3]"]), kinds=ALONE)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("[1/6] weak/pi0/seed-3: ")
    assert lines[0].endswith("J 0.2")


def test_the_live_table_has_a_mark_for_each_cell(written, tmp_path):
    from rich.console import Console

    study = load_study(written, ["arms.1.overrides.finetune={steps: 3, fails: [3]}"])
    grid = lay_out(study, ALONE)
    live = Live(study, flat((*grid.shared, *grid.groups)))
    console = Console(width=100, record=True, file=(tmp_path / "screen").open("w"))
    console.print(live.screen())
    outcomes = run_study(study, kinds=ALONE)
    live.tell(outcomes)
    begun = Record(tmp_path / "out" / "small" / "strong" / "anchor" / "seed-4")
    (begun.path / ".stages" / "outcome.json").unlink()
    console.print(live.screen())
    lines = [line.split() for line in console.export_text().splitlines()]
    console.file.close()
    assert lines[2] == ["weak", "··", "··", "··"]
    assert ["weak", "●●", "0.20", "●●", "0.21", "✗●", "0.21"] in lines
    assert ["strong", "●●", "0.80", "●◐", "0.80", "✗●", "0.81"] in lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "2/2"}, "--shard: wanted i/n"),
        ({"part": "half"}, "--shard: wanted i/n"),
        ({"jobs": 0}, "--jobs: wanted a number of processes"),
        ({"backend": "spark"}, "--backend: wanted one of loky, threading, dask, ray"),
    ],
)
def test_options_that_cannot_be_are_refused(written, options, words):
    with pytest.raises(StudyError, match=words):
        run_study(load_study(written), kinds=ALONE, **options)


def test_a_backend_whose_package_is_missing_says_what_to_install(written, monkeypatch):
    from posttrain.study import run

    monkeypatch.setitem(run.BACKENDS, "ray", "no_such_package")
    with pytest.raises(StudyError, match="--backend ray: needs the package: pip install no_such"):
        run_study(load_study(written), kinds=ALONE, backend="ray")


def test_a_table_is_written_from_records_alone(written, tmp_path):
    study = load_study(written)
    empty = write_table(study)
    assert [row.seeds for row in empty.settings] == [(), ()]
    run_study(study, kinds=ALONE)
    first = write_table(study)
    names = ("table.json", "table.md", "study.png")
    before = [(study.folder / name).read_bytes() for name in names]
    assert write_table(study) == first
    assert [(study.folder / name).read_bytes() for name in names] == before


@pytest.mark.filterwarnings("default")
def test_dask_runs_the_same_cells(written, tmp_path):
    pytest.importorskip("distributed")
    found = run_study(load_study(written), kinds=TOGETHER, jobs=2, backend="dask")
    assert set(states(found).values()) == {"done"}
    run_study(load_study(write(tmp_path / "one")), kinds=ALONE)
    assert cells_of(tmp_path / "out") == cells_of(tmp_path / "one" / "out")


def command(*args):
    return CliRunner().invoke(cli.app, ["study", *map(str, args)])


def test_the_command_line_runs_tabulates_and_ends_with_a_status(written, tmp_path, monkeypatch):
    monkeypatch.setattr(kind, "KINDS", TOGETHER)
    fail = "arms.0.overrides.finetune.fails=[4]"
    nothing = command(written, "--table")
    assert nothing.exit_code == 0
    assert "no setting has an outcome yet" in nothing.stdout
    failed = command(written, fail, "settings=[{name: weak}]")
    assert failed.exit_code == 1
    assert "weak/anchor/seed-4: ValueError: seed 4 diverged" in failed.stderr
    assert "1 of 6 cells failed" in failed.stderr
    tabulated = command(written, fail, "settings=[{name: weak}]", "--table")
    assert tabulated.exit_code == 0
    assert "| weak | anchor | pi0-centric | 1 |" in tabulated.stdout
    assert tabulated.stdout.splitlines()[-1] == str(tmp_path / "out" / "small")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shard", "3/2"], "posttrain: --shard: wanted i/n with 0 <= i < n"),
        (["arms.0.overrides.nothing=1"], "posttrain: setting weak, arm anchor: nothing: no such"),
        (["nothing=1"], "nothing: no such field"),
    ],
)
def test_the_command_line_refuses_with_a_sentence_and_status_2(written, monkeypatch, args, words):
    monkeypatch.setattr(kind, "KINDS", TOGETHER)
    done = command(written, *args)
    assert done.exit_code == 2
    assert words in done.stderr
