import pytest

from posttrain.llm.data import load_rows
from posttrain.llm.settings import DataSettings

SUMS = {
    "min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"],
    "allow_parentheses": False, "allow_negation": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def sums():
    settings = DataSettings(
        path="reasoning_gym:basic_arithmetic", options=SUMS, size=300, heldout=60
    )
    return load_rows(settings)


@pytest.fixture(scope="session")
def tiny(sums, tmp_path_factory):
    """A small model on disk: what is loaded differs from what is made."""
    from posttrain.llm import model, tiny

    train, heldout = sums
    tokenizer = tiny.make_tokenizer(row.text for row in (*train, *heldout))
    folder = tmp_path_factory.mktemp("tiny")
    model.save(tiny.make_model(tokenizer, hidden=32, layers=2, seed=0), tokenizer, folder)
    return folder
