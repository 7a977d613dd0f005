"""The one error that a user can act on, and how a command line reports it."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

EXIT_USER_ERROR = 2
DISK_FULL = "the disk is full; what was recorded is whole. Make room, and the same command goes on"


class UserError(Exception):
    """Something the user can mend: the message says what was given, what was expected, and what to do."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk or the user's share of it is full.

    Libraries that write files in C or Rust pass the system's words on, not its number.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left on device", "disk is full", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False


def nearest(given: str, valid: Iterable[str]) -> str:
    """A sentence naming the valid names, the most similar first: "did you mean 'demo'? (demo, lora_small)"."""
    names = sorted(valid)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}" if names else "there are none"


def reported(command: Callable[[], int]) -> int:
    """Run a command; a UserError becomes one message on standard error and exit code 2, without a traceback."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
