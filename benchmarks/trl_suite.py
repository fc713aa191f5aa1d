"""TRL's own tests of GRPO and RLOO, with TRL's trainers and with ours under an empty plan.

    git clone https://github.com/huggingface/trl FOLDER
    python benchmarks/trl_suite.py FOLDER --write

The tests run twice, without a network, on the installed TRL; docs/parity.md has the table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "trl_suite"
sys.path.insert(0, str(HERE))

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parity.md"
FILES = ("tests/test_grpo_trainer.py", "tests/test_rloo_trainer.py")
Diary = Mapping[str, Mapping[str, Any]]

NEEDS = {
    "an accelerator": r"requires (ampere|an? accelerator|accelerator|.*gpu)",
    "vLLM": r"requires vllm",
    "Liger kernels, bitsandbytes or kernels": r"requires (liger|bitsandbytes|kernels)",
    "jmespath": r"requires jmespath",
    "another version of a library": r"(introduced|requires transformers|[Nn]ew in|since v?\d|v\d)",
    "a model or data set that has no stand-in here": (
        r"trl-internal-testing|is not a local folder|offline|ouldn't (find|reach|connect)"
    ),
}


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trl", type=Path, help="a checkout of TRL")
    parser.add_argument("--only", default="", help="pytest's -k")
    parser.add_argument("--steps", type=int, default=4, help="of tests that do not say; 0: all")
    parser.add_argument("--folder", type=Path, help="keep diaries and stand-ins here")
    parser.add_argument("--write", action="store_true", help="into docs/parity.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        import stand_ins

        stand_ins.make(folder)
        runs = {who: start(asked, folder, who) for who in ("trl", "ours")}
        for running in runs.values():
            running.wait()
        diaries = [read(diary_of(folder, who)) for who in runs]
    text, broken = compare(*diaries, version=(asked.trl / "VERSION").read_text().strip())
    print(text)
    if asked.write:
        write(text)
    raise SystemExit(1 if broken else 0)


def diary_of(folder: Path, who: str) -> Path:
    """Where a run writes what happened."""
    return folder / f"diary_{who}.jsonl"


def read(diary: Path) -> Diary:
    """Rows by test."""
    rows = [json.loads(line) for line in diary.read_text().splitlines()]
    return {row.pop("test"): row for row in rows}


def start(asked: argparse.Namespace, folder: Path, who: str) -> subprocess.Popen[bytes]:
    """Begin one run of the tests."""
    trl = asked.trl.resolve()
    diary_of(folder, who).unlink(missing_ok=True)
    paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRL_SUITE_TRAINERS": who,
        "TRL_SUITE_DIARY": str(diary_of(folder, who)),
        "TRL_SUITE_STEPS": str(asked.steps),
        "TRL_SUITE_STAND_INS": str(folder),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / f"hf_{who}"),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }
    command = [
        sys.executable, "-m", "pytest", *(str(trl / name) for name in FILES), "-p",
        "trl_suite_plugin", "-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", str(trl),
        "-o", "addopts=", "-q", "--no-header", "--tb=short", "-k", asked.only,
    ]  # fmt: skip
    with (folder / f"log_{who}.txt").open("w") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            command, cwd=folder, env=environment, stdout=log, stderr=log
        )


def reason(row: Mapping[str, Any]) -> str:
    """What a test that did not pass asks for."""
    for need, pattern in NEEDS.items():
        if re.search(pattern, row["why"]):
            return need
    return str(row["why"]).replace("|", "/")[:80]


def compare(plain: Diary, ours: Diary, *, version: str) -> tuple[str, list[str]]:
    """The page's block, and the tests that pass with TRL's trainers and not with ours."""
    import transformers
    import trl

    tests = sorted(set(plain) | set(ours))
    nothing = {"outcome": "absent", "why": "", "weights": []}
    pairs = {t: (plain.get(t, nothing), ours.get(t, nothing)) for t in tests}
    broken = [t for t, (a, b) in pairs.items() if a["outcome"] == "passed" != b["outcome"]]
    lines = [
        f"Tests of TRL {version} on TRL {trl.__version__} and transformers "
        f"{transformers.__version__}, on a CPU, without a network.",
        "",
        "| with TRL's trainers | with ours | tests |",
        "| --- | --- | --- |",
    ]
    outcomes = Counter((a["outcome"], b["outcome"]) for a, b in pairs.values())
    lines += [f"| {a} | {b} | {n} |" for (a, b), n in sorted(outcomes.items())]
    trained = {t: (a["weights"], b["weights"]) for t, (a, b) in pairs.items() if a["weights"]}
    same = sum(a == b for a, b in trained.values())
    runs = sum(len(a) for a, _ in trained.values())
    lines += [
        "",
        f"{len(trained)} tests train a model, {runs} times in all. In {same} of them the "
        "weights at the end have the same hash with both.",
        "",
    ]
    lines += [f"- other weights: `{t}`" for t, (a, b) in trained.items() if a != b]
    lines += [f"- passes with TRL's, not with ours: `{t}`: {reason(pairs[t][1])}" for t in broken]
    needs = Counter(
        (a["outcome"], reason(a)) for a, b in pairs.values() if a["outcome"] != "passed"
    )
    lines += ["", "What the tests that do not pass with TRL's trainers here ask for:", ""]
    lines += ["| outcome | reason | tests |", "| --- | --- | --- |"]
    lines += [f"| {outcome} | {why} | {n} |" for (outcome, why), n in needs.most_common()]
    return "\n".join(lines), broken


def write(text: str) -> None:
    """Put the block into the page."""
    begin, end = "<!-- suite: begin -->", "<!-- suite: end -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
