"""Write into docs/metrics.md what terms, hooks, steps of the source and evaluators declare of their metrics.

python scripts/render_glossary.py            writes each table between its two marks
python scripts/render_glossary.py --check    exits 1 when a table is stale
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say
from files import bounded_text

require_packages()

from training.rooms import HOOKS, JUDGES, STEPS, TERMS
from training.storage.atomic_file import write_bytes_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- written by scripts/render_glossary.py -->", "<!-- until here -->"
JUDGED = "<!-- evaluators, written by scripts/render_glossary.py -->"
TABLES = ((BEGIN, "key", (TERMS, HOOKS, STEPS)), (JUDGED, "key, after `eval/` or `eval/validation/`", (JUDGES,)))


def rendered(text: str) -> str:
    """The page with the tables as they should be. Errors: `UserError` for a page without the marks."""
    for mark, heading, rooms in TABLES:
        before, begin, rest = text.partition(mark)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise UserError(f"{PAGE}: its marks {mark} and {END} are gone; put them where the table belongs")
        metrics = {name: words for room in rooms for name, words in room.metrics().items()}
        rows = [f"| `{name}` | {words} |" for name, words in metrics.items()]
        text = "\n".join([before + begin, f"| {heading} | meaning |", "|---|---|", *rows, end + after])
    return text


@exit_on_user_error
def main() -> int:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table is stale")
    check = parser.parse_args().check
    text = bounded_text(PAGE)
    fresh = rendered(text)
    if check:
        if text != fresh:
            say(f"{PAGE.name} is stale: python scripts/render_glossary.py writes it", file=sys.stderr)
        return int(text != fresh)
    write_bytes_atomically(PAGE, fresh.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
