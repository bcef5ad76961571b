"""A small, slow, independent Sudoku: plain recursion over sets, no bitmasks, no numpy in the search."""

from pathlib import Path

import numpy as np

RAW_LIST = Path(__file__).resolve().parents[2] / "dataset" / "raw" / "royle_17clue.txt.gz"


def peers_of(box: tuple[int, int]) -> list[set[int]]:
    rows, columns = box
    n = rows * columns
    peers = []
    for cell in range(n * n):
        r, c = divmod(cell, n)
        peers.append(
            {
                other
                for other in range(n * n)
                if other != cell
                and (
                    other // n == r
                    or other % n == c
                    or (other // n // rows == r // rows and other % n // columns == c // columns)
                )
            }
        )
    return peers


def all_solutions(board: list[int], box: tuple[int, int], limit: int = 10**9) -> list[tuple[int, ...]]:
    """Solutions of a board (0 = blank) in an arbitrary order, at most `limit`."""
    n = box[0] * box[1]
    peers = peers_of(box)
    for cell, digit in enumerate(board):
        if digit and any(board[other] == digit for other in peers[cell]):
            return []
    found: list[tuple[int, ...]] = []
    cells = list(board)

    def search() -> None:
        open_cells = [
            (len(options), cell, options)
            for cell in range(n * n)
            if not cells[cell]
            for options in [set(range(1, n + 1)) - {cells[other] for other in peers[cell]}]
        ]
        if not open_cells:
            found.append(tuple(cells))
            return
        _, cell, options = min(open_cells, key=lambda item: item[:2])
        for digit in sorted(options):
            if len(found) < limit:
                cells[cell] = digit
                search()
                cells[cell] = 0

    search()
    return found


def search_nodes(board: list[int], box: tuple[int, int]) -> int:
    """The rating by its definition: singles to rest, then branch on the first cell with fewest options."""
    rows, columns = box
    n = rows * columns
    peers = peers_of(box)
    unit_list = [[r * n + c for c in range(n)] for r in range(n)]
    unit_list += [[r * n + c for r in range(n)] for c in range(n)]
    unit_list += [
        [(b * rows + i) * n + s * columns + j for i in range(rows) for j in range(columns)]
        for b in range(columns)
        for s in range(rows)
    ]

    def at_rest(options: list[set[int]]) -> bool:
        """Propagate in place; False at a contradiction."""
        changed = True
        while changed:
            changed = False
            for cell in range(n * n):
                if not options[cell]:
                    return False
                if len(options[cell]) == 1:
                    for other in peers[cell]:
                        if options[cell] <= options[other]:
                            options[other] -= options[cell]
                            changed = True
            for unit in unit_list:
                for digit in range(1, n + 1):
                    places = [cell for cell in unit if digit in options[cell]]
                    if not places:
                        return False
                    if len(places) == 1 and len(options[places[0]]) > 1:
                        options[places[0]] = {digit}
                        changed = True
        return True

    def count(options: list[set[int]]) -> int:
        if not at_rest(options) or all(len(option) == 1 for option in options):
            return 0
        cell = min((len(option), cell) for cell, option in enumerate(options) if len(option) > 1)[1]
        nodes = 1
        for digit in options[cell]:
            child = [set(option) for option in options]
            child[cell] = {digit}
            nodes += count(child)
        return nodes

    return count([{digit} if digit else set(range(1, n + 1)) for digit in board])


def shuffled_board(box: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A solved grid made without the code under test: the shifted pattern under random relabelling."""
    rows, columns = box
    n = rows * columns
    pattern = [(columns * (r % rows) + r // rows + c) % n for r in range(n) for c in range(n)]
    return (rng.permutation(n)[pattern] + 1).astype(np.uint8)
