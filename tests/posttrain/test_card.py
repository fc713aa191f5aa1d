"""The model card says what the record says; push uploads it, and says why when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from posttrain import cli
from posttrain.card import HUB, model_card, write_card
from posttrain.card_parts import portable
from posttrain.record import Record, RecordError, write_text

sys.path.insert(0, str(Path(__file__).parent / "report"))
from fake_record import write_record

RECIPE = """
kind: llm
name: sums
model: {path: HuggingFaceTB/SmolLM2-135M}
data: {path: me/sums, heldout_path: /home/me/secret/heldout.jsonl}
reward: {kind: exact}
rl: {algorithm: rloo, steps: 120, trainer: {output: 3}}
output: /home/me/runs
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, written once."""
    folder = write_record(tmp_path_factory.mktemp("run") / "sums")
    write_text(folder / "recipe.yaml", RECIPE)
    write_text(folder / "rl" / "config.json", "{}")
    return folder


@pytest.fixture
def text(made):
    return model_card(Record(made), repo_id="me/sums-rl")


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(made, text):
    found, outcome = front(text), Record(made).outcome()
    assert found["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert found["datasets"] == ["me/sums"]
    assert {"posttrain", "trl", "rloo", "plan-mixed"} <= set(found["tags"])
    assert f"regime-{Record(made).diagnosis().regime}" in found["tags"]
    metric = found["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(outcome["after"], abs=1e-6)


def test_the_hubs_own_classes_read_it_back(text):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M"
    assert card.data.eval_results[0].metric_name == "held-out return"
    assert card.data.eval_results[0].task_type == "text-generation"


def test_it_carries_diagnosis_plan_outcome_and_decomposition(made, text):
    record = Record(made)
    diagnosis, outcome, plan = record.diagnosis(), record.outcome(), record.plan()
    assert diagnosis.sentence in text
    assert f"{diagnosis.j_policy:.3g}" in text
    assert all(flag.text in text for flag in diagnosis.flags)
    assert plan["reason"] in text
    assert plan["refuted_by"] in text
    assert "replay: weight 0.5 -> 0.05 in 80 steps, gate map" in text
    assert "RLOO, 120 steps" in text
    low, high = outcome["interval"]
    assert f"{outcome['gain']:+.3f} | {low:+.3f} to {high:+.3f}" in text
    parts = outcome["decomposition"]
    assert f"| {parts['stability']:+.3f} |" in text
    assert f"{parts['corrected']['parts']['plasticity']:+.3f} (95 %:" in text
    assert "torch 2.13.0" in text
    assert 'from_pretrained("me/sums-rl")' in text


def test_a_loss_is_called_a_loss(made, tmp_path):
    from posttrain.card_parts import outcome

    stored = Record(made).outcome()
    assert "\n\nLost:" in outcome({**stored, "interval": [-0.2, -0.1]})
    assert "No gain or loss was shown" in outcome({**stored, "interval": [-0.2, 0.1]})
    assert "\n\nGained:" in outcome({**stored, "interval": [0.1, 0.2]})


def test_no_path_of_the_machine_gets_out(text):
    assert "/home/me" not in text
    assert "heldout_path: heldout.jsonl" in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert "output" not in recipe
    assert recipe["rl"]["trainer"] == {"output": 3}  # only the recipe's own is left out


def test_a_local_model_is_no_base_model_of_the_hub(made):
    record = Record(made)
    text = (made / "recipe.yaml").read_text()
    write_text(made / "recipe.yaml", text.replace("HuggingFaceTB/SmolLM2-135M", "/home/me/pi0"))
    try:
        card = model_card(record)
    finally:
        write_text(made / "recipe.yaml", text)
    assert "base_model" not in front(card)
    assert "from `pi0`" in card
    assert HUB.fullmatch("asset:smollm2") is None


def test_paths_of_both_kinds_are_cut():
    given = {"a": "/x/y.json", "b": ["C:\\z\\w.json"], "c": "me/data", "output": "/x"}
    assert portable(given) == {"a": "y.json", "b": ["w.json"], "c": "me/data"}


def test_what_is_absent_is_left_out_or_called_absent(tmp_path):
    write_text(tmp_path / "recipe.yaml", "kind: llm\nname: bare\n")
    text = model_card(Record(tmp_path))
    assert "Not measured" in text
    assert "## Diagnosis" not in text
    assert "model-index" not in front(text)


def test_it_is_written_beside_the_model_or_refused(made, tmp_path):
    done = CliRunner().invoke(cli.app, ["card", str(made)])
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == made / "rl" / "README.md"
    with pytest.raises(RecordError, match=r"no recipe\.yaml"):
        write_card(tmp_path)
    write_text(tmp_path / "recipe.yaml", "kind: llm\nname: bare\n")
    with pytest.raises(RecordError, match="no model in rl/"):
        write_card(tmp_path)


class FakeApi:
    """Remembers what it was asked to do."""

    def __init__(self, *, public=False, error=None):
        self.calls, self.public, self.error = [], public, error

    def create_repo(self, repo_id, **options):
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repo_id, options))
        return f"https://hub/{repo_id}"

    def repo_info(self, repo_id):
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **options):
        self.calls.append(("upload", options))


def push(*args, **options):
    pytest.importorskip("huggingface_hub")
    from posttrain.push import push

    return push(*args, **options)


def test_push_makes_the_repository_and_uploads_model_and_card(made):
    api = FakeApi()
    assert push(made, "me/sums-rl", api=api) == "https://hub/me/sums-rl"
    (_, name, options), (_, upload) = api.calls
    assert (name, options) == ("me/sums-rl", {"private": None, "exist_ok": True})
    assert upload["folder_path"] == str(made / "rl")
    assert upload["repo_id"] == "me/sums-rl"
    assert {"checkpoint-*", "*.bin", "*.pt"} <= set(upload["ignore_patterns"])
    assert 'from_pretrained("me/sums-rl")' in (made / "rl" / "README.md").read_text()


def test_private_is_asked_for_and_never_uploaded_in_public(made):
    api = FakeApi()
    push(made, "me/x", private=True, api=api)
    assert api.calls[0][2]["private"] is True
    api = FakeApi(public=True)
    with pytest.raises(ValueError, match="exists and is public, so nothing was uploaded"):
        push(made, "me/x", private=True, api=api)
    assert [call[0] for call in api.calls] == ["create"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("Name or service not known"), "the Hub cannot be reached: Name or"),
        ("httpx", "the Hub cannot be reached: no route"),
        (403, r"refused the token \(403\); it needs write access"),
        (409, "the Hub answered 409"),
    ],
)
def test_what_goes_wrong_is_a_sentence(made, error, sentence):
    errors = pytest.importorskip("huggingface_hub.errors")
    if error == "httpx":
        error = errors.HfHubHTTPError.__bases__[0]("no route")
    elif isinstance(error, int):
        found = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
        found.response = SimpleNamespace(status_code=error)
        error = found
    with pytest.raises(ValueError, match=sentence):
        push(made, "me/x", api=FakeApi(error=error))


def test_without_a_token_or_offline_or_with_a_bad_name_nothing_is_tried(made, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    done = CliRunner().invoke(cli.app, ["push", str(made), "me/x"])
    assert done.exit_code == 2
    assert "no Hugging Face token: run `hf auth login`" in done.stderr
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    done = CliRunner().invoke(cli.app, ["push", str(made), "me/x"])
    assert "HF_HUB_OFFLINE is set" in done.stderr
    api = FakeApi()
    with pytest.raises(ValueError, match="repo_id: Repo id must be in the form"):
        push(made, "a/b/c", api=api)
    assert not api.calls
