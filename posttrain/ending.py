"""How does a command end: with which exit status, and which sentence?"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_INPUT, UNDECIDED, INTERRUPTED = 2, 3, 130
OURS = ("posttrain", "control")
EXTRAS = {
    **dict.fromkeys(("jinja2", "matplotlib", "markupsafe"), "report"),
    **dict.fromkeys(("gymnasium", "gymnasium_robotics", "mujoco", "minari", "h5py"), "control"),
}
"""Which optional part of the package brings a module; what is not here comes with `llm`."""
P = ParamSpec("P")


def guarded(function: Callable[P, None]) -> Callable[P, None]:
    """Let user errors of a command end in a sentence and an exit status, others in a traceback.

    `POSTTRAIN_TRACEBACK=1` shows the traceback of user errors too.
    """

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            leave("stopped; the same command goes on where the record ends", INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except ImportError as error:
            if not _is_absent_package(error) or _wants_traceback():
                raise
            extra = EXTRAS.get(error.name or "", "llm")
            leave(f"{error.name} is not installed: pip install 'posttrain[{extra}]'", BAD_INPUT)
        except (ValueError, OSError) as error:
            if not _is_for_the_user(error) or _wants_traceback():
                raise
            leave(_sentence(error), BAD_INPUT, once=type(error).__name__ == "RecipeError")

    return command


def leave(sentence: str, status: int, *, once: bool = False) -> NoReturn:
    """Say why on standard error and go; with `once`, only the first process says it."""
    if rank() == 0:
        typer.echo(f"posttrain: {sentence}", err=True)
    elif not once:
        typer.echo(f"posttrain, process {rank()}: {sentence}", err=True)
    raise typer.Exit(status)


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message was written for the user: ours, or the system's about a file.

    A ValueError out of a library is a defect to be seen with its traceback.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith(OURS):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(OURS)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _is_absent_package(error: ImportError) -> bool:
    return isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(OURS)


def _wants_traceback() -> bool:
    return os.environ.get("POSTTRAIN_TRACEBACK") == "1"


def rank() -> int:
    """Which of the processes that accelerate started this is."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
