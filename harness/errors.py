"""Report errors that a user can fix."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

EXIT_USER_ERROR = 2
DISK_FULL = "the disk is full; all records are complete. Free some space and run the same command again to resume"


class UserError(Exception):
    """An error that the user can fix: the message says what was given, what was expected, and what to do."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that the disk or the user's quota is full.

    Libraries that write files in C or Rust pass on the system's message, not its error number.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in ("No space left on device", "disk is full", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False


def nearest(given: str, valid: Iterable[str]) -> str:
    """Return a hint for an unknown name.

    Args:
        given: The unknown name.
        valid: The valid names.

    Returns:
        The most similar valid name, if there is one, and all valid names: "did you mean 'demo'? valid: demo, nst".
    """
    names = sorted(valid)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}" if names else "there are none"


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    A UserError is printed as one message on standard error, without a traceback, and gives exit code 2; an interrupt
    gives 130.
    """
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
