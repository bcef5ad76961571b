"""The evaluation file of the Collatz network: odd numbers of 2 to 128 bits with what is known of their orbits.

Columns: n; t1 = T(n); is_growth, 1 where T(n) > n; sigma_n, steps of the full map until 1; max_n, its largest number;
w_expansion = log10(max(1, max_n / n)) + 1 with four decimals. Lines end with CR LF. The bytes depend on rows and seed
only.

Source: recipe and columns of the evaluation set of the learned-Lyapunov experiment (50,000 rows, seed 42: md5
fa1df3eaab6b73523788c1289ff78bb6).
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.safe_files import read_bytes, refuse
from errors import UserError
from projects.collatz.labels import Label
from projects.collatz.syracuse import expansion_weight, syracuse

COLUMNS = ("n", "t1", "is_growth", "sigma_n", "max_n", "w_expansion")
SMALLEST_BITS, LARGEST_BITS = 2, 128
MAX_BYTES = 1 << 30
# Python's own limit for reading a decimal number.
MAX_DIGITS = 4300
_MEND = "make one with: python projects/collatz/build_eval.py --rows 50000 --seed 42 --output-csv FILE"
# w_expansion has four decimals; half a unit of the last one, and a little for the rounding of the writer's.
_WEIGHT_TOLERANCE = 6e-5


@dataclass(frozen=True)
class EvalRows:
    """What an evaluation needs of the file: N numbers, (N,) bool growth, (N,) float64 weights; and its SHA-256."""

    numbers: list[int]
    is_growth: np.ndarray
    weights: np.ndarray
    sha256: str

    def __len__(self) -> int:
        return len(self.numbers)


def draw_numbers(rows: int, seed: int) -> list[int]:
    """`rows` distinct odd numbers: bits uniform in 2..128, then uniform among the numbers of so many bits, made odd."""
    generator = random.Random(seed)
    numbers: dict[int, None] = {}
    while len(numbers) < rows:
        bits = generator.randint(SMALLEST_BITS, LARGEST_BITS)
        numbers.setdefault(generator.randint(2 ** (bits - 1), 2**bits - 1) | 1)
    return list(numbers)


def csv_lines(numbers: Sequence[int], labels: Iterable[Label]) -> Iterator[str]:
    """The lines of the file, header first, without their ends."""
    yield ",".join(COLUMNS)
    for number, label in zip(numbers, labels, strict=True):
        weight = expansion_weight(number, label.full_max)
        growth = int(label.t1 > number)
        yield f"{number},{label.t1},{growth},{label.full_steps},{label.full_max},{weight:.4f}"


def read_eval_file(path: Path) -> EvalRows:
    """Read and check an evaluation file, row by row.

    Checked: columns, digits, n odd and above 1, no n twice, t1 and is_growth against T(n), w_expansion against max_n.
    Not checked: sigma_n and max_n themselves, which would take all orbits. Lines may end with LF or CR LF.
    Errors: `UserError` naming file, row (1 is the first below the header) and line.
    """
    content = read_bytes(path, MAX_BYTES, _MEND)
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        refuse(path, f"is no CSV of numbers (byte {error.start} is not ASCII)", _MEND)
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    header = lines[0].removesuffix("\r") if lines else ""
    if header != ",".join(COLUMNS):
        refuse(path, f"has the header {header[:80]!r}, expected {','.join(COLUMNS)!r}", _MEND)
    if len(lines) == 1:
        refuse(path, "holds no row", _MEND)
    numbers: dict[int, int] = {}
    growth, weights = [], []
    for row, line in enumerate(lines[1:], 1):
        try:
            number, is_growth, weight = _read_row(line.removesuffix("\r"))
            if number in numbers:
                raise ValueError(f"n = {_short(number)} is also in row {numbers[number]}, expected every n once")
        except ValueError as error:
            raise UserError(f"{path}, row {row} (line {row + 1}): {error}; {_MEND}") from None
        numbers[number] = row
        growth.append(is_growth)
        weights.append(weight)
    return EvalRows(list(numbers), np.array(growth), np.array(weights), hashlib.sha256(content).hexdigest())


def _read_row(line: str) -> tuple[int, bool, float]:
    """n, is_growth and w_expansion of a row. Errors: `ValueError` with what was found and expected."""
    fields = line.split(",")
    if len(fields) != len(COLUMNS):
        raise ValueError(f"found {len(fields)} fields, expected {len(COLUMNS)}")
    number, t1, growth, steps, full_max = map(_whole, COLUMNS, fields[:-1])
    if number < 3 or number % 2 == 0:
        raise ValueError(f"n = {_short(number)}, expected an odd number above 1")
    expected, _ = syracuse(number)
    if t1 != expected:
        raise ValueError(f"t1 = {_short(t1)}, expected T({_short(number)}) = {_short(expected)}")
    if growth != int(t1 > number):
        raise ValueError(f"is_growth = {_short(growth)}, expected {int(t1 > number)}")
    if steps < 1:
        raise ValueError(f"sigma_n = {steps}, expected at least 1")
    if full_max < number:
        raise ValueError(f"max_n = {_short(full_max)}, expected at least n = {_short(number)}")
    weight, text = expansion_weight(number, full_max), fields[-1]
    # The shape first: float() would also take "nan", "1_0" and blanks.
    whole, point, decimals = text.partition(".")
    plain = point and whole.isdigit() and decimals.isdigit() and len(text) < 32
    if not plain or abs(float(text) - weight) > _WEIGHT_TOLERANCE:
        raise ValueError(f"w_expansion = {text[:32]!r}, expected {weight:.4f}")
    return number, bool(growth), float(text)


def _whole(column: str, text: str) -> int:
    if not text.isdigit() or len(text) > MAX_DIGITS:
        long = f" and {len(text) - 24} more" if len(text) > 24 else ""
        raise ValueError(f"{column} = {text[:24]!r}{long}, expected a whole number of at most {MAX_DIGITS} digits")
    return int(text)


def _short(number: int) -> str:
    text = str(number)
    return text if len(text) <= 60 else f"{text[:24]}...{text[-8:]} ({len(text)} digits)"
