"""The same data as a D4RL file, as a Minari set and made on the spot end alike."""

import pytest
from safetensors.torch import load_file
from tiny import TEXT

from control.datasets.hdf5 import read_hdf5, write_hdf5
from control.datasets.minari import write_minari
from posttrain.record import Record
from posttrain.report import write_report
from posttrain.run import run


@pytest.mark.parametrize("kind", ["hdf5", "minari"])
def test_read_data_end_as_made_data_do(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    recipe = tmp_path / "recipe.yaml"

    recipe.write_text(TEXT)
    made = run(str(recipe), [f"output={tmp_path / 'made'}"])
    data = read_hdf5(made / "data" / "dataset.hdf5")
    if kind == "hdf5":
        source = tmp_path / "d.hdf5"
        write_hdf5(data, source)
    else:
        source = "local/corridor-demo-v0"
        write_minari(data, source, env=None, author="a", author_email="a@b.c",
                     description="d", algorithm="waypoints", code="here")  # fmt: skip
    read = run(
        str(recipe),
        [f"output={tmp_path / 'read'}", "dataset.make=null", f"dataset.source={source}"],
    )
    for part in ("pi0", "rl"):
        mine, theirs = (load_file(f / part / "agent.safetensors") for f in (made, read))
        assert all((mine[k] == theirs[k]).all() for k in mine)
    assert Record(read).diagnosis().gap == Record(made).diagnosis().gap
    assert write_report(read).stat().st_size > 10_000
