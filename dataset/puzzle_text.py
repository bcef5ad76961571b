"""Lines of text files that anyone may have written, and what is said of the bad ones among them.

LF, CR LF and CR end a line, a byte order mark may begin one, and `.gz` is unpacked on the way. Every other character
at which some reader or editor ends a line, and every control character, is refused: what stands behind it would be
lost to one of them. Lines and totals are bounded (a compressed file cannot unfold without end).
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from dataset.safe_files import file_size
from errors import UserError
from files import open_regular

# The largest published file (3.8 million rows, 0.7 GB) fits in easily; a compression bomb does not.
MAX_LINE_LENGTH = 4096
MAX_LINES = 20_000_000
MAX_LENGTH = 4 << 30
MAX_BAD_LINES = 10_000  # a file with more of them is something else
_FEW = 5
# Controls but tab, the line and paragraph separators, and what bytes that are no UTF-8 are decoded to.
_STRANGE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BYTE_ORDER_MARK = "\ufeff"


class BadLines:
    """Lines of a file that cannot be used: their number, and the first few of them."""

    def __init__(self, path: Path, mend: str) -> None:
        self.path, self.mend = path, mend
        self.count, self.first = 0, list[tuple[int, str]]()

    def add(self, line: int, fault: str) -> None:
        """Note what is wrong with a line (from 1). Errors: `UserError` once there are too many to look on."""
        self.count += 1
        if len(self.first) < _FEW or line < self.first[-1][0]:
            self.first = sorted([*self.first, (line, fault)])[:_FEW]
        if self.count == MAX_BAD_LINES:
            self.refuse()

    def refuse(self) -> None:
        """Raise one `UserError` where there are any: the first with its fault, the numbers of the next, the count."""
        if not self.count:
            return
        (line, fault), *others = self.first
        numbers = ", ".join(str(number) for number, _ in others) + (", ..." if self.count > _FEW else "")
        count = f"{self.count:,}{' or more' if self.count == MAX_BAD_LINES else ''}"
        more = f" ({count} bad lines in all, next {numbers})" if others else ""
        raise UserError(f"{self.path}:{line}: {fault}{more}; {self.mend}")


def _refuse(path: Path, line: int, fault: str) -> NoReturn:
    raise UserError(f"{path}:{line}: {fault}; correct or remove the line")


def text_lines(path: Path, longest: int = MAX_LINE_LENGTH) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a UTF-8 text file.

    Args:
        longest: the most characters that a line may have.
    Errors: `UserError` for a file that is no such text, a line or a total beyond the limits.
    """
    file_size(path, "give a readable text file")
    total = 0
    try:
        with open_regular(path) as file:
            packed = path.suffix.lower() == ".gz"
            binary = gzip.GzipFile(fileobj=file, mode="rb") if packed else file
            stream = TextIOWrapper(cast(BinaryIO, binary), encoding="utf-8", errors="surrogateescape", newline=None)
            number = 0
            while line := stream.readline(longest + 1):
                number += 1
                total += len(line)
                if len(line) > longest:
                    _refuse(path, number, f"is longer than {longest} characters")
                if number > MAX_LINES or total > MAX_LENGTH:
                    _refuse(path, number, f"is beyond the limit of {MAX_LINES:,} lines or {MAX_LENGTH >> 30} GiB")
                line = line.removesuffix("\n").removeprefix(_BYTE_ORDER_MARK)
                if not line.isprintable() and (strange := _STRANGE.search(line)):
                    _refuse(path, number, _fault_of(strange[0]))
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not an intact gzip file ({error}); expected text, or gzip if named .gz") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); give a readable text file") from error


def _fault_of(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "is not UTF-8 text; compressed files must be named .gz"
    return f"holds the character U+{ord(character):04X}, at which a line may end; lines end in LF, CR LF or CR"
