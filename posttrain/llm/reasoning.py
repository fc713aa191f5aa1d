"""Questions with answers from reasoning-gym, made on the spot from a seed."""

from __future__ import annotations

import json

from posttrain.llm.data import DataError, Row, unit_of
from posttrain.llm.settings import DataSettings


def make_rows(task: str, settings: DataSettings) -> list[Row]:
    """Distinct questions of a task. The items are rebuilt from `entry` when they are scored."""
    import reasoning_gym

    size = settings.size or 1_000
    try:
        made = reasoning_gym.create_dataset(task, seed=settings.seed, size=size, **settings.options)
    except (ValueError, TypeError, AssertionError) as error:
        raise DataError(f"reasoning_gym:{task}: {error}") from error
    rows: dict[str, Row] = {}
    for i in range(size):
        item = made[i]
        if item["answer"] is None:
            raise DataError(
                f"reasoning_gym:{task}: its items carry no answer, so there is nothing to clone; "
                "bring demonstrations in a file"
            )
        question = (settings.template or "{prompt}").replace("{prompt}", item["question"])
        prompt = [{"role": "user", "content": question}]
        if settings.system is not None:
            prompt = [{"role": "system", "content": settings.system}, *prompt]
        unit = unit_of(prompt)
        rows.setdefault(
            unit,
            Row(
                unit=unit,
                prompt=tuple(prompt),
                completion=str(item["answer"]),
                answer=str(item["answer"]),
                columns={"entry": json.dumps(item, default=str)},
            ),
        )
    return list(rows.values())
