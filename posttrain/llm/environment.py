"""Environments that a policy acts in through tools, in the sense of TRL's `environment_factory`.

An environment is a class. `reset(**row)` begins an episode and may return a text, which stands
behind the prompt's last message; its other public methods are the tools; `get_reward()` is the
return of the episode. An episode depends on its row alone, so that a demonstration can be
replayed and every rollout of a prompt faces the same task.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from posttrain.llm.data import Row
from posttrain.llm.settings import EnvironmentSettings
from posttrain.tuning.turns import Message

Stage: TypeAlias = Literal["train", "eval"]

OBSERVED = "observation"
"""The column that holds what `reset` returned when the data was read."""

TRLS_OWN = frozenset({"trainer_state", "log_extra", "log_metric", "environments"})
"""What TRL hands to reward functions beside the columns of its dataset."""


class EnvironmentError(ValueError):  # noqa: A001 - the builtin of that name is OSError's old one
    """An environment that cannot be used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """Makes environments: TRL calls it for every rollout that takes place at the same time.

    `made` is the recipe's class, with two changes for TRL: `reset` checks the observation instead
    of writing it behind the prompt once more, and `get_reward` is left to our reward function.
    """

    made: type
    options: Mapping[str, Any] = field(default_factory=dict)
    schemas: tuple[dict[str, Any], ...] = ()
    tools: tuple[str, ...] = ()
    iterations: int | None = None

    def __call__(self) -> Any:
        """A new environment."""
        return self.made(**self.options)

    def limits(self) -> dict[str, Any]:
        """What the recipe decides of TRL's tool loop."""
        return {"max_tool_calling_iterations": self.iterations}

    def opened(self, row: Row, stage: Stage) -> Row:
        """`row` as the policy meets it: with the observation in its prompt, and the tools.

        Raises:
            EnvironmentError: the observation is not a text.
        """
        environment = self()
        observed = _class_of(environment).reset(**_given(row, stage))
        if not isinstance(observed, str | None):
            raise EnvironmentError(
                f"environment: wanted a text or None from reset, got "
                f"{type(observed).__name__} on unit {row.unit!r}"
            )
        last = {**row.prompt[-1], "content": row.prompt[-1]["content"] + (observed or "")}
        return replace(
            row,
            prompt=(*row.prompt[:-1], last),
            columns={**row.columns, OBSERVED: observed or ""},
            tools=self.schemas,
        )

    def begin(self, row: Row, stage: Stage) -> Any:
        """A new environment, reset to a row that was opened."""
        environment = self()
        environment.reset(**_given(row, stage))
        return environment


def enter(
    train: Sequence[Row], heldout: Sequence[Row], factory: Factory | None
) -> tuple[list[Row], list[Row]]:
    """Open every row; without an environment the rows stay as they are.

    Raises:
        EnvironmentError: a demonstration calls tools, and there is no environment.
    """
    if factory is not None:
        return (
            [factory.opened(row, "train") for row in train],
            [factory.opened(row, "eval") for row in heldout],
        )
    acting = next((row.unit for row in (*train, *heldout) if row.turns), None)
    if acting is not None:
        raise EnvironmentError(
            f"data.path: the demonstration of unit {acting!r} calls tools, and the recipe has no "
            "environment that has them; set environment.path"
        )
    return list(train), list(heldout)


def _given(row: Row, stage: Stage) -> dict[str, Any]:
    """What TRL hands to `reset`: the whole row of its dataset."""
    return {**row.reward_columns(), "stage": stage}


def make_factory(settings: EnvironmentSettings, *, rewards: bool) -> Factory:
    """Load the class that a recipe names.

    Args:
        settings: the class and how it is made.
        rewards: whether its `get_reward` is the run's reward.

    Raises:
        EnvironmentError: there is no such class, it lacks a method, or TRL could not use it.
    """
    from transformers.utils import get_json_schema

    cls = _class(settings.path)
    methods = {
        name: method
        for name, method in inspect.getmembers(cls, predicate=inspect.isfunction)
        if not name.startswith("_")
    }
    _check(settings.path, methods, rewards=rewards)
    tools = tuple(name for name in methods if name not in ("reset", "get_reward"))
    try:
        instance = cls(**settings.options)
        schemas = tuple(get_json_schema(getattr(instance, name)) for name in tools)
    except Exception as error:
        raise EnvironmentError(
            f"environment: cannot make {settings.path!r} with options {settings.options!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Factory(
        made=_for_trl(cls),
        options=settings.options,
        schemas=schemas,
        tools=tools,
        iterations=settings.max_tool_calling_iterations,
    )


def _class(path: str) -> type:
    module, name = path.split(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise EnvironmentError(f"environment.path: cannot load {path!r}: {error}") from error
    if not isinstance(cls, type):
        raise EnvironmentError(f"environment.path: wanted a class, {path!r} is {cls!r}")
    return cls


def _check(path: str, methods: Mapping[str, Callable[..., Any]], *, rewards: bool) -> None:
    if "reset" not in methods:
        raise EnvironmentError(f"environment.path: {path!r} has no method reset(**row)")
    if rewards and "get_reward" not in methods:
        raise EnvironmentError(f"reward.kind is environment, but {path!r} has no get_reward()")
    if not rewards and "get_reward" in methods:
        raise EnvironmentError(
            f"{path!r} has its own get_reward(), which TRL would add to the recipe's reward; set "
            "reward: {kind: environment}, or take the method away"
        )
    for name, method in methods.items():
        if inspect.iscoroutinefunction(method):
            raise EnvironmentError(f"{path!r}: {name} is async; wanted a method that waits itself")


def _for_trl(cls: Any) -> type:
    """`cls` as TRL gets it. What it hides is its parent's: see `rewarded`."""

    def reset(self: Any, **row: Any) -> None:
        observed = cls.reset(self, **_as_read(row)) or ""
        if observed != row[OBSERVED]:
            raise EnvironmentError(
                f"environment: reset observed {observed!r} on unit {row.get('unit')!r}, and "
                f"{row[OBSERVED]!r} when the data was read; an episode must depend on its row alone"
            )

    # TRL takes functions among the class' members for tools or rewards, and None for neither.
    hidden = {"reset": reset, "get_reward": None, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), hidden)


def rewarded(environment: Any) -> float:
    """The return of an episode that has ended."""
    return float(_class_of(environment).get_reward())


def _class_of(environment: Any) -> Any:
    """The environment as the recipe's own class has it."""
    return super(type(environment), environment)


def _as_read(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without what `Factory.opened` wrote into it."""
    *before, last = row["prompt"]
    said = {**last, "content": last["content"].removesuffix(row[OBSERVED])}
    given = {name: value for name, value in row.items() if name != OBSERVED}
    return {**given, "prompt": [*before, said]}


def prepare(tokenizer: Any) -> None:
    """Make sure that a tokenizer writes tool calls and reads them back, always in the same words.

    Where TRL knows a template for training, it takes the place of one that writes earlier
    messages differently once later ones follow, as in TRL's own RL.

    Raises:
        EnvironmentError: the chat template drops calls or answers, or nothing can parse them.
    """
    from trl import chat_template_utils as templates

    if not templates.supports_tool_calling(tokenizer):
        raise EnvironmentError(
            "model.path: the chat template does not write tool calls and what tools answer; "
            "choose a model whose template does"
        )
    if all(getattr(tokenizer, n, None) is None for n in ("response_template", "response_schema")):
        try:
            templates.add_response_schema(tokenizer)
        except ValueError as error:
            raise EnvironmentError(
                f"model.path: nothing says how to read tool calls; set the tokenizer's "
                f"response_template ({error})"
            ) from error
    if not templates.is_chat_template_prefix_preserving(tokenizer):
        tokenizer.chat_template = templates.get_training_chat_template(tokenizer)


def last_word(messages: Sequence[Message]) -> str:
    """What the policy says at the end; nothing where a limit ended the rollout at a tool."""
    last = messages[-1] if messages else {}
    return str(last.get("content") or "") if last.get("role") == "assistant" else ""


def judged_columns(
    row: Mapping[str, Any], environment: Any, messages: Sequence[Message]
) -> dict[str, Any]:
    """What a reward may ask for after a rollout: the row, the environment, everything said."""
    return {**row, "environments": environment, "transcript": list(messages)}


def judged_rows(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """The rows of a batch, from what TRL hands to a reward function."""
    names = [name for name in columns if name not in TRLS_OWN]
    rows = [
        {"prompt": prompt, **{name: columns[name][i] for name in names}}
        for i, prompt in enumerate(prompts)
    ]
    if "environments" not in columns:
        return rows
    about = zip(rows, columns["environments"], completions, strict=True)
    return [judged_columns(row, environment, said) for row, environment, said in about]
