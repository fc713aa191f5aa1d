"""Look up every option that an export may name in checkouts of the frameworks.

    python benchmarks/check_export_options.py verl=../verl trl=.venv/lib/python3.11/site-packages

Each argument is a framework of `posttrain.export.FRAMEWORKS` and the folder that holds its files: a
clone, or for `trl` and `trinity` the folder that a wheel was unpacked in. What is missing is named
with the file it was read in; the exit status is then 1. Frameworks without a folder are left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from posttrain.export import Framework, frameworks


def missing(framework: Framework, folder: Path) -> Iterator[str]:
    """One sentence for each option or value that is not where it was."""
    for name, option in framework.options.items():
        if not _stands(folder / option.file, option.text):
            yield f"{name}: {option.text!r} is not in {option.file}"
        for value in option.values:
            if not _stands(folder / option.values_file, value, whole=True):
                yield f"{name}={value}: the value is not in {option.values_file}"


def _stands(file: Path, text: str, *, whole: bool = False) -> bool:
    """Whether a file has a text; with `whole`, as a word of its own."""
    if not file.is_file():
        return False
    wanted = rf"\b{re.escape(text)}\b" if whole else re.escape(text)
    return re.search(wanted, file.read_text(encoding="utf-8")) is not None


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    failed = 0
    for argument in arguments:
        name, _, folder = argument.partition("=")
        framework = frameworks()[name]
        found = list(missing(framework, Path(folder)))
        failed += len(found)
        total = len(framework.options) + sum(len(o.values) for o in framework.options.values())
        print(
            f"{framework.title:<14} {framework.version:<20} {total - len(found)} of {total} found"
        )
        for sentence in found:
            print(f"  {sentence}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
