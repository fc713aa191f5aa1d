import pytest
from fake_record import write_record

from posttrain.report import render, write_report


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A complete record whose report has been drawn for real. Read only."""
    folder = write_record(tmp_path_factory.mktemp("runs") / "addition-1")
    write_report(folder)
    return folder


@pytest.fixture
def record(tmp_path):
    """A complete, small record to spoil."""
    return write_record(tmp_path / "addition-1", units=24)


@pytest.fixture
def undrawn(monkeypatch):
    """Put an empty drawing in the place of every figure, for tests of the words around them."""

    def blank(draw, size, *, name, **options):
        return b'<svg viewBox="0 0 1 1"></svg>'

    monkeypatch.setattr(render, "_bytes", blank)
