"""Small changes to a module, one at a time, that a test should notice: drawn from all places that cosmic-ray finds.

Left out is what changes no behaviour that a test could see, or fails wherever it runs (`LEFT_OUT`). A place is drawn
first and then one change there, so that a sum, of which there are many changes, counts as much as a number.
"""

import ast
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from files import bounded_text

LEFT_OUT = (
    "annotations, decorators, __all__, the block of __main__",
    "f-strings, what is raised (not when), assert statements, strict= of zip",
    "arithmetic to bitwise operators, comparisons to `is`, what does not compile",
)
_BITWISE, _IDENTITY = {"BitOr", "BitAnd", "BitXor", "RShift", "LShift"}, {"Is", "IsNot"}
Span = tuple[tuple[int, int], tuple[int, int]]  # (line from 1, column in characters), of the start and behind the end


@dataclass(frozen=True)
class Mutant:
    """One changed place. module: its path from the root. occurrence: which of the places of this operator.

    line: its number from 1; before, after: its text.
    """

    module: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str


def sampled(root: Path, modules: Sequence[str], count: int, seed: int) -> tuple[list[Mutant], int]:
    """`count` mutants in an order of chance, those of a smaller count first; and how many places there are.

    Errors: `UserError` without cosmic-ray.
    """
    sources = {module: bounded_text(root / module) for module in modules}
    places = [(module, place) for module in sorted(sources) for place in _places(sources[module])]
    chance = random.Random(seed)
    chance.shuffle(places)
    mutants: list[Mutant] = []
    for module, changes in places:
        chance.shuffle(changes)
        for operator, occurrence, line in changes if len(mutants) < count else ():
            changed = mutated(sources[module], operator, occurrence)
            if _compiles(changed):
                texts = (text.splitlines()[line - 1].strip() for text in (sources[module], changed))
                mutants.append(Mutant(module, operator, occurrence, line, *texts))
                break
    return mutants, len(places)


def mutated(source: str, operator: str, occurrence: int) -> str:
    """The source with one change."""
    _require_cosmic_ray()
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed: str | None = mutate_code(source, get_operator(f"core/{operator}")(), occurrence)
    if changed is None:
        raise ValueError(f"{operator} has no place {occurrence}")
    return changed


def _places(source: str) -> Iterator[list[tuple[str, int, int]]]:
    """For each place the changes (operator, occurrence, line) that it can have."""
    _require_cosmic_ray()
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    spans, nodes = list(_without_behaviour(source)), list(ast_nodes(get_ast(source)))
    places: dict[tuple[Any, ...], list[tuple[str, int, int]]] = defaultdict(list)
    for full_name in operator_names():
        name, kind = full_name.removeprefix("core/"), get_operator(full_name)
        if name == "RemoveDecorator" or kind.arguments() or not _tells(name):
            continue
        operator = kind()
        found = [span for node in nodes for span in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(found):
            if not any(first <= start and end <= last for first, last in spans):
                places[start, name.partition("_")[0]].append((name, occurrence, start[0]))
    return iter([places[key] for key in sorted(places)])


def _tells(operator: str) -> bool:
    """Whether a test could see this change and the change does not fail wherever it runs."""
    family, _, kinds = operator.partition("_")
    first, _, second = kinds.partition("_")
    if family == "ReplaceBinaryOperator":
        return (first in _BITWISE) == (second in _BITWISE)
    return family != "ReplaceComparisonOperator" or (first in _IDENTITY) == (second in _IDENTITY)


def _without_behaviour(source: str) -> Iterator[Span]:
    lines = source.splitlines()

    def span(node: Any) -> Span:
        columns = ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        first, last = ((line, len(lines[line - 1].encode()[:column].decode())) for line, column in columns)
        return first, last

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(annotation=ast.expr() as hint) | ast.AnnAssign(annotation=hint):
                yield span(hint)
            case ast.JoinedStr() | ast.Raise() | ast.Assert():
                yield span(node)
            case ast.keyword(arg="strict") | ast.Assign(targets=[ast.Name("__all__")]):
                yield span(node)
            case ast.If(test=ast.Compare(left=ast.Name("__name__"))):
                yield span(node)
        for hint in (getattr(node, "returns", None), *getattr(node, "decorator_list", ())):
            if hint is not None:
                yield span(hint)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _require_cosmic_ray() -> None:
    try:
        import cosmic_ray  # noqa: F401
    except ImportError:
        raise UserError("cosmic-ray is not installed: pip install -r requirements-mutants.txt") from None
