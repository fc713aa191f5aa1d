"""Upload a finished run's model with its card. Nothing is uploaded unless this is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from posttrain.card import write_card

if TYPE_CHECKING:
    from pathlib import Path

LEFT_OUT = ("checkpoint-*", "*.pt", "*.pth", "*.bin", "*.pkl", "events.out.*")
"""What is no part of a model: training state, and formats that run code when they are read."""


class PushError(ValueError):
    """A model could not be uploaded, and what to do."""


def push(folder: Path, repo_id: str, *, private: bool = False, api: Any = None) -> str:
    """Write the card of a run and upload its `rl` folder; return the repository's address.

    Args:
        folder: the run's.
        repo_id: owner/name on the Hub; made if it does not exist.
        private: make it private; an existing public repository is then refused.
        api: a `huggingface_hub.HfApi`; one with the user's stored token if not given.

    Raises:
        RecordError: the folder holds no finished run.
        PushError: no token, no network, a bad name, or the Hub's refusal.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"repo_id: {error}") from None
    card = write_card(folder, repo_id=repo_id)
    api = _api() if api is None else api
    try:
        return _upload(api, card.parent, repo_id, private=private)
    except _failures() as error:
        raise PushError(_explained(repo_id, error)) from error


def _upload(api: Any, folder: Path, repo_id: str, *, private: bool) -> str:
    url = api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise PushError(
            f"{repo_id}: exists and is public, so nothing was uploaded; make it private first, or "
            "leave out --private"
        )
    api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        commit_message="Posttrain: model and card",
        ignore_patterns=list(LEFT_OUT),
    )
    return str(url)


def _failures() -> tuple[type[Exception], ...]:
    """The system's errors, and those of whichever HTTP library the Hub's client stands on."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


def _api() -> Any:
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise PushError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it")
    if get_token() is None:
        raise PushError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    return HfApi()


def _explained(repo_id: str, error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if status in (401, 403):
        return f"{repo_id}: the Hub refused the token ({status}); it needs write access: {first}"
    if status is not None:
        return f"{repo_id}: the Hub answered {status}: {first}"
    return f"{repo_id}: the Hub cannot be reached: {first}"
