r"""What reaches a terminal: text without control sequences, and one line for every error.

Cards, configurations, names and answers of servers are written by others. Their control characters
are shown as ``\u001b`` and the like, in one place: the streams that a command writes to. JSON
stays exact, for that is how JSON spells these characters.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from io import TextIOBase
from typing import IO, Any

import click

from lesff.environment import shows_traceback
from lesff.errors import LesffError

INTERRUPTED = 130
"""Exit code after an interrupt, as shells have it: 128 and the number of the signal."""

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters but tab and line end, and marks that reorder what is shown."""
_PROGRESS = re.compile(r"(\r|\x1b\[A)")
"""What progress bars write: back to the beginning of the line, one line up."""
_MAX_ERROR = 2000
_ADVICE = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room and run again",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.ENOENT: "check the path",
}


def escaped(text: str) -> str:
    """The text with control characters as JSON spells them."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """The text as one line of bounded length without control characters."""
    joined = " ".join(part.strip() for part in text.splitlines() if part.strip())
    short = joined if len(joined) <= _MAX_ERROR else f"{joined[:_MAX_ERROR]} ..."
    return escaped(short)


class OutputClosedError(Exception):
    """Whoever read the output has gone."""


class EscapedStream(TextIOBase):
    """Writes to a text stream, control characters escaped; has no way around it.

    Args:
        stream: Where the text goes.
        progress: Whether the sequences of progress bars may pass.
    """

    def __init__(self, stream: Any, *, progress: bool = False) -> None:
        self._stream, self._progress = stream, progress
        self._is_mid_line = False

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the stream."""
        return getattr(self._stream, "errors", None)

    def write(self, text: str, /) -> int:
        """Write text; characters that the stream cannot hold become question marks."""
        parts = _PROGRESS.split(text) if self._progress else [text]
        # every second part is a sequence of a progress bar
        safe = "".join(p if i % 2 else escaped(p) for i, p in enumerate(parts))
        try:
            self._stream.write(safe)
        except BrokenPipeError as error:
            raise OutputClosedError from error
        except UnicodeEncodeError:
            encoding = self.encoding
            self._stream.write(safe.encode(encoding, "replace").decode(encoding))
        if text:
            self._is_mid_line = not text.endswith("\n")
        return len(text)

    def begin_line(self) -> None:
        """End a line that is not ended, such as that of a progress bar."""
        if self._is_mid_line:
            self.write("\n")

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            raise OutputClosedError from error

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Descriptor of the stream."""
        return self._stream.fileno()


@contextlib.contextmanager
def escaped_streams() -> Iterator[None]:
    """Inside the block, all that is written to standard output and error is escaped.

    What cannot be written at the end, to a full disk or a closed pipe, is dropped without a word:
    the command has said so already.
    """
    out, err = sys.stdout, sys.stderr
    with (
        contextlib.redirect_stdout(EscapedStream(out)),  # pyright: ignore[reportArgumentType]
        contextlib.redirect_stderr(EscapedStream(err, progress=True)),  # pyright: ignore[reportArgumentType]
    ):
        try:
            yield
        finally:
            for stream in (out, err):
                _settle(stream)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Inside the block, every exception becomes a :class:`click.ClickException` of one line.

    ``LESFF_TRACEBACK=1`` lets those pass that lesff does not raise on purpose.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort, click.UsageError):
        raise
    except click.ClickException as error:
        raise _Failure(error.message, error.exit_code) from error
    except KeyboardInterrupt as error:
        raise _Failure("interrupted", INTERRUPTED) from error
    except OutputClosedError as error:  # nobody to tell
        raise click.exceptions.Exit(1) from error
    except LesffError as error:
        raise _Failure(str(error) or type(error).__name__) from error
    except Exception as error:  # noqa: BLE001 - the last place before the terminal
        if shows_traceback():
            raise
        raise _Failure(explain(error)) from error


def explain(error: Exception) -> str:
    """One line about an exception that lesff does not raise on purpose."""
    text = str(error).strip()
    if isinstance(error, MemoryError) or "allocate" in text or "out of memory" in text.lower():
        return "there is not enough memory: use fewer or smaller structures, or a smaller model"
    if isinstance(error, UnicodeError):
        return f"a file must be UTF-8 text: {text}"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, OSError) and error.errno is not None:
        place = f" ({error.filename})" if error.filename is not None else ""
        advice = _ADVICE.get(error.errno)
        what = error.strerror or type(error).__name__
        return f"{what}{place}" + (f": {advice}" if advice else "")
    return (
        f"{type(error).__name__}: {text or 'no message'}; if the input is right, this is a fault "
        "of lesff: report it with what LESFF_TRACEBACK=1 prints"
    )


class _Failure(click.ClickException):
    """An error, in one line of its own.

    Args:
        message: The text, of any form.
        code: Exit code of the process.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(one_line(message))
        self.exit_code = code  # pyright: ignore[reportAttributeAccessIssue]  # click reads it so

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        if file is None and isinstance(sys.stderr, EscapedStream):
            sys.stderr.begin_line()
        super().show(file)


def _settle(stream: Any) -> None:
    """Flush a stream; if that fails, let it write to nowhere, so that Python's end is silent."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
