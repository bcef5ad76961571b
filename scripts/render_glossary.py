"""Write into docs/metrics.md what terms, hooks and steps of the source declare of their metrics.

python scripts/render_glossary.py            writes the table between its two marks
python scripts/render_glossary.py --check    exits 1 when the table is stale
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from errors import UserError, exit_on_user_error, require_packages

require_packages()

from training.rooms import HOOKS, STEPS, TERMS
from training.storage.atomic_file import write_bytes_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- written by scripts/render_glossary.py -->", "<!-- until here -->"


def rendered(text: str) -> str:
    """The page with the table as it should be. Errors: `UserError` for a page without the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{PAGE}: its marks {BEGIN} and {END} are gone; put them where the table belongs")
    metrics = {name: words for room in (TERMS, HOOKS, STEPS) for name, words in room.metrics().items()}
    rows = [f"| `{name}` | {words} |" for name, words in metrics.items()]
    return "\n".join([before + begin, "| key | meaning |", "|---|---|", *rows, end + after])


@exit_on_user_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the table is stale")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = rendered(text)
    if check:
        if text != fresh:
            print(f"{PAGE.name} is stale: python scripts/render_glossary.py writes it", file=sys.stderr)
        return int(text != fresh)
    write_bytes_atomically(PAGE, fresh.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
