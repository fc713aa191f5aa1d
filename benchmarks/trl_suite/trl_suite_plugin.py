"""A pytest plugin: TRL's tests with our trainers in the place of TRL's, and a diary.

The diary holds every test's outcome, and a hash of the weights after every `train()` in it.
A test that says nothing of its length trains for TRL_SUITE_STEPS steps.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from transformers import Trainer, TrainingArguments
from trl import import_utils

_weights: list[str] = []
_rows: dict[str, dict[str, Any]] = {}


def _absent(name: str) -> Any:
    if name.startswith("is_") and name.endswith("_available"):
        return lambda: False
    raise AttributeError(name)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported."""
    del config
    torch.set_num_threads(1)
    # Tests of another version may ask for checks that are gone; what is not known is not there.
    import_utils.__getattr__ = _absent  # type: ignore[method-assign]
    if os.environ["TRL_SUITE_TRAINERS"] == "ours":
        from posttrain.llm.trainer import PlanGRPOTrainer, PlanRLOOTrainer

        for module in (trl, trl.trainer):
            module.GRPOTrainer, module.RLOOTrainer = PlanGRPOTrainer, PlanRLOOTrainer
    steps = int(os.environ["TRL_SUITE_STEPS"])
    post_init = TrainingArguments.__post_init__

    def shorter(self: Any) -> None:
        if steps and self.max_steps < 0:
            self.max_steps = steps
        post_init(self)

    TrainingArguments.__post_init__ = shorter
    train = Trainer.train

    def hashed(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = train(self, *args, **kwargs)
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        _weights.append(digest.hexdigest()[:16])
        return out

    Trainer.train = hashed


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Go where the stand-ins lie that the test needs."""
    words = inspect.getsource(item.function)  # type: ignore[attr-defined]
    size = "wide" if "151645" in words else "small"
    os.chdir(Path(os.environ["TRL_SUITE_STAND_INS"]) / size)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Write down what happened."""
    report = yield
    row = _rows.setdefault(item.nodeid, {"outcome": "passed", "why": "", "weights": []})
    if report.when == "setup":
        _weights.clear()
    if report.when == "call":
        row["weights"] = list(_weights)
    if report.outcome != "passed":
        row["outcome"] = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        lines = str(call.excinfo.value if call.excinfo else report.longrepr).strip().splitlines()
        row["why"] = next(iter(lines), "")[:300]
    if report.when == "teardown":
        with Path(os.environ["TRL_SUITE_DIARY"]).open("a") as diary:
            diary.write(json.dumps({"test": item.nodeid, **row}) + "\n")
    return report
