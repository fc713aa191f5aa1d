"""A model card that carries the diagnosis: what was measured before RL, what RL kept, what came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posttrain import card_parts
from posttrain.files import RecordError, write_text
from posttrain.record import Record

if TYPE_CHECKING:
    from pathlib import Path

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name, as the Hub writes it."""


def write_card(folder: Path, *, repo_id: str = "REPO_ID") -> Path:
    """Write `rl/README.md` of a run from its record; return its path.

    Args:
        folder: the run's.
        repo_id: where the model will be found, for the example of its use.

    Raises:
        RecordError: the folder is no record, or RL has left no model in it.
    """
    record = Record(folder)
    text = model_card(record, repo_id=repo_id)
    if not (record.rl.is_dir() and any(record.rl.iterdir())):
        raise RecordError(f"{folder}: no model in rl/; the run has not come to its end")
    path = record.rl / "README.md"
    write_text(path, text)
    return path


def model_card(record: Record, *, repo_id: str = "REPO_ID") -> str:
    """The card in Markdown, with the Hub's YAML in front.

    Raises:
        RecordError: the folder is no record.
    """
    import yaml

    recipe = record.recipe()
    if recipe is None:
        raise RecordError(f"{record.path}: no recipe.yaml; is it a run's record?")
    front = yaml.safe_dump(metadata(record, recipe), sort_keys=False, allow_unicode=True)
    sections = (
        f"# {recipe.get('name', record.path.name)}",
        _summary(recipe),
        card_parts.diagnosis(record.diagnosis()),
        card_parts.plan(record.plan(), recipe),
        card_parts.outcome(record.outcome()),
        card_parts.sft(record.integrity()),
        _use(recipe, repo_id),
        _limits(recipe),
        card_parts.reproduce(recipe, record.environment()),
    )
    return f"---\n{front}---\n\n" + "\n\n".join(s for s in sections if s) + "\n"


def metadata(record: Record, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the Hub reads: base model, datasets, tags, and the held-out return."""
    llm = recipe.get("kind") == "llm"
    found: dict[str, Any] = {}
    base, data = _base(recipe), _dataset(recipe)
    acts = recipe.get("kind") == "vla"
    if llm or acts:
        tag = "text-generation" if llm else "robotics"
        found |= {"library_name": "transformers", "pipeline_tag": tag}
    if HUB.fullmatch(base) and (llm or acts):
        found["base_model"] = base
    if HUB.fullmatch(data) and (llm or acts):
        found["datasets"] = [data]
    found["tags"] = _tags(record, recipe)
    outcome = record.outcome()
    if outcome is not None:
        metric = {"type": "return", "name": "held-out return", "value": round(outcome["after"], 6)}
        where = {"type": data or "unknown", "name": data or "unknown"}
        task = {"type": "text-generation" if llm else "reinforcement-learning"}
        result = {"task": task, "dataset": where, "metrics": [metric]}
        found["model-index"] = [{"name": recipe.get("name", "model"), "results": [result]}]
    return found


def _tags(record: Record, recipe: Mapping[str, Any]) -> list[str]:
    tags = ["posttrain", "reinforcement-learning"]
    algorithm = (recipe.get("rl") or {}).get("algorithm")
    if recipe.get("kind") in {"llm", "vla"}:
        tags += ["trl", *([algorithm] if algorithm else [])]
    diagnosis, plan = record.diagnosis(), record.plan()
    if diagnosis is not None:
        tags.append(f"regime-{diagnosis.regime}")
    if plan is not None:
        tags.append(f"plan-{plan['plan']['family'].lower()}")
    return tags


def _base(recipe: Mapping[str, Any]) -> str:
    return str((recipe.get("model") or {}).get("path", ""))


def _dataset(recipe: Mapping[str, Any]) -> str:
    data = recipe.get("data") or recipe.get("dataset") or {}
    value = data.get("path") or data.get("id") or "" if isinstance(data, Mapping) else data
    return str(card_parts.portable(value, "path"))


def _summary(recipe: Mapping[str, Any]) -> str:
    base = card_parts.portable(_base(recipe), "path")
    data = _dataset(recipe)
    source = f" `{base}`" if base else " a policy"
    on = f" on `{data}`" if data else ""
    return (
        f"Made with Posttrain from{source}{on}. Before fine-tuning, the pretrained policy and its "
        "dataset were measured under the reward of RL; what was kept of the two follows from that."
    )


def _use(recipe: Mapping[str, Any], repo_id: str) -> str:
    if recipe.get("kind") == "vla":
        return (
            "## Use\n\n```python\nfrom huggingface_hub import snapshot_download\n"
            "from posttrain.vla.policy import load_policy\n\n"
            f'policy = load_policy(snapshot_download("{repo_id}"))\n```'
        )
    if recipe.get("kind") != "llm":
        return ""
    return (
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo_id}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")\n```'
    )


def _limits(recipe: Mapping[str, Any]) -> str:
    reward = (recipe.get("reward") or {}).get("kind")
    judged = f"the recipe's reward (`{reward}`)" if reward else "the task's own reward"
    return (
        f"## Limits\n\nEvery return is that of {judged} on held-out units of the same data. "
        "Nothing else was measured: not safety, not other tasks, not what the model forgot "
        "elsewhere."
    )
