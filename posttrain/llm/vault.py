"""A vault with many slots: a small task with two tools, for machines without a network.

The policy is told a slot; it looks into it, and submits the number that it finds. Some
demonstrators read the slot's digits backwards and submit what lies there.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from posttrain.llm.data import DataError, Row, unit_of
from posttrain.llm.settings import DataSettings
from posttrain.tuning.turns import Message

DIGITS = 3
"""Digits of a slot's name."""


class Vault:
    """An environment in TRL's sense: `reset`, tools, `get_reward`."""

    def reset(self, slot: str, vault: int, **_row: Any) -> None:
        """Lock the door again.

        Args:
            slot: the slot whose number is wanted.
            vault: which of the vaults; each has its own numbers.
        """
        self._slot, self._vault = slot, vault
        self._submitted: str | None = None

    def look(self, slot: str) -> str:
        """Read the number in a slot.

        Args:
            slot: Three digits.

        Returns:
            The number.
        """
        if len(slot) != DIGITS or not slot.isdigit():
            raise ValueError(f"no slot {slot}")
        return inside(slot, self._vault)

    def submit(self, value: str) -> str:
        """Hand in a number; the last one counts.

        Args:
            value: The number.

        Returns:
            A receipt.
        """
        self._submitted = value
        return "ok"

    def get_reward(self) -> float:
        """1 where the number handed in lies in the slot that was asked for, else 0."""
        return float(self._submitted == inside(self._slot, self._vault))


def inside(slot: str, vault: int) -> str:
    """The number in a slot: two digits."""
    digest = hashlib.sha256(f"{vault}:{slot}".encode()).digest()
    return f"{int.from_bytes(digest[:4], 'big') % 100:02d}"


def make_rows(settings: DataSettings) -> list[Row]:
    """Slots in an order drawn from the seed, each with one demonstration.

    `settings.options` may set `careless`, the share of demonstrators who read backwards.

    Raises:
        DataError: an option that does not exist or lies outside its range.
    """
    options = {"careless": 0.4, **settings.options}
    if unknown := sorted(set(options) - {"careless"}):
        raise DataError(f"vault: no option {unknown[0]!r}; it has careless")
    careless = options["careless"]
    if (
        isinstance(careless, bool)
        or not isinstance(careless, int | float)
        or not 0 <= careless <= 1
    ):
        raise DataError(f"vault: careless must lie in [0, 1], got {careless!r}")
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(10**DIGITS)
    backwards = rng.random(10**DIGITS) < careless
    return [
        _row(f"{number:0{DIGITS}d}", settings, backwards=bool(backwards[number]))
        for number in order[: settings.size]
    ]


def _row(slot: str, settings: DataSettings, *, backwards: bool) -> Row:
    prompt: list[Message] = [{"role": "user", "content": f"submit slot {slot}"}]
    if settings.system is not None:
        prompt = [{"role": "system", "content": settings.system}, *prompt]
    looked = slot[::-1] if backwards else slot
    found = inside(looked, settings.seed)
    turns: tuple[Message, ...] = (
        _call("look", slot=looked),
        {"role": "tool", "name": "look", "content": found},
        _call("submit", value=found),
        {"role": "tool", "name": "submit", "content": "ok"},
        {"role": "assistant", "content": "done"},
    )
    return Row(
        unit=unit_of(prompt),
        prompt=tuple(prompt),
        completion="done",
        columns={"slot": slot, "vault": settings.seed},
        turns=turns,
    )


def _call(tool: str, **arguments: str) -> Message:
    function = {"name": tool, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
