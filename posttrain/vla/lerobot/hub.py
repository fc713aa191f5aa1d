"""A dataset's folder: as named, or brought from the Hub."""

from __future__ import annotations

from pathlib import Path

from posttrain.vla.demonstrations import DemonstrationsError


def local_folder(path: str, revision: str | None = None) -> Path:
    """The folder of this name, or a copy of the Hub's dataset of this name.

    Raises:
        DemonstrationsError: there is no such folder, and the Hub did not give one.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise DemonstrationsError(
            f"data.path: there is no folder {path!r}, and a name on the Hub reads OWNER/NAME"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise DemonstrationsError(
            f"data.path: there is no folder {path!r}, and huggingface_hub is not installed to look "
            "for it on the Hub"
        ) from None
    try:
        return Path(snapshot_download(path, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DemonstrationsError(
            f"data.path: there is no folder {path!r}, and the Hub did not give a dataset of this "
            f"name: {reason}"
        ) from None
