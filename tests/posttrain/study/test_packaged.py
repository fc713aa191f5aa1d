"""Every study that comes with the package can be laid out: each of its cells is a valid recipe."""

import pytest

from posttrain.recipe import list_recipes
from posttrain.study import load_study
from posttrain.study.cells import lay_out

STUDIES = [found.name for found in list_recipes() if found.name.startswith("studies/")]


def test_the_studies_are_packaged():
    assert "studies/regimes" in STUDIES
    assert sum(len(load_study(name).settings) for name in STUDIES if "three_regimes" in name) == 63


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_of_a_packaged_study_is_a_valid_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lay_out(load_study(name, ["seeds=[0]"]))
