"""What does a run depend on besides its recipe?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "posttrain",
    "numpy",
    "scipy",
    "pyarrow",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "reasoning-gym",
    "vllm",
    "deepspeed",
    "bitsandbytes",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
    "minari",
    "h5py",
)


def environment(seed: int) -> dict[str, Any]:
    """Describe what a run depends on besides its recipe; no path, host or user name.

    Nothing heavy is imported: versions come from the installed packages' metadata, and an
    accelerator is named only where torch is loaded already.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    return {
        "seed": seed,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch is not None and cuda else None,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        **_commit(Path(__file__).resolve().parents[1]),
        "packages": versions,
    }


def _commit(root: Path) -> dict[str, Any]:
    """Commit of the checkout at `root`, or nulls where it is none or there is no git."""
    nothing = {"commit": None, "modified": None}
    if not (root / ".git").exists():  # an installed package may lie inside another project
        return nothing
    git = ("git", "-C", str(root))
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)  # noqa: S603, PLW1510
        status = subprocess.run(  # noqa: S603, PLW1510
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return nothing
    if head.returncode or status.returncode:
        return nothing
    return {"commit": head.stdout.strip(), "modified": bool(status.stdout.strip())}
