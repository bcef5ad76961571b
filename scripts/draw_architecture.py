"""Draw the folders of this suite and the imports between them, and say which imports point the wrong way.

    python scripts/draw_architecture.py [--output-dir docs/pictures]

Writes architecture.png and the same as text, architecture.txt. Exit code 1 where an import points backwards.
"""

import argparse
import ast
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from errors import UserError, exit_on_user_error, require_packages

require_packages()

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from analysis.figures.figure_files import BLUE, GREY, RED, STYLE, make_folder, save_caption, save_figure

ROOT = Path(__file__).resolve().parents[1]
ENTRY = "entry scripts"
# An import leads from a level to one further down, never up and never sideways.
FOLDERS: tuple[tuple[str, ...], ...] = (
    (ENTRY,),
    ("projects",),
    ("scripts",),
    ("analysis",),
    ("training",),
    ("models", "dataset", "dynamics"),
    ("options.py",),
    ("errors.py",),
)
# Likewise inside training/. The modules at its own level are the story of a run: they use every room.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("evaluation", "objectives", "hooks"),
    ("inference", "terms", "records"),
    ("settings",),
    ("storage",),
)
ABOUT = {
    "projects": "sister systems",
    "scripts": "quickstart, tests, grids of runs, recorded results, parity",
    "analysis": "one script per question",
    "models": "the pure map, HRM, TRM, SRM, ACT, losses",
    "dataset": "folder format, builders, sources of batches",
    "dynamics": "Lyapunov spectra of any map; imports torch only",
}


@dataclass(frozen=True)
class Import:
    """One module of the suite imports another; both are paths from the root."""

    source: Path
    target: Path

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def folder_of(module: Path) -> str:
    """The box of `FOLDERS` that a module stands in."""
    if len(module.parts) > 1:
        return module.parts[0]
    return module.name if any(module.name in level for level in FOLDERS) else ENTRY


def room_of(module: Path) -> str | None:
    """The folder below `folder_of`, None at its own level."""
    return module.parts[1] if len(module.parts) > 2 else None


def suite_modules(root: Path = ROOT) -> list[Path]:
    """Every module of the suite but its tests, as a path from the root."""
    folders = [name for level in FOLDERS for name in level if (root / name).is_dir()]
    files = [*root.glob("*.py"), *(path for name in folders for path in (root / name).rglob("*.py"))]
    return sorted(path.relative_to(root) for path in files if path.name != "__init__.py")


def suite_imports(root: Path = ROOT) -> list[Import]:
    """Every import of one module by another, inside functions too."""
    modules = suite_modules(root)
    known = {".".join(path.with_suffix("").parts): path for path in modules}
    imports = set()
    for path in modules:
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imports |= {Import(path, known[name]) for name in names if name in known}
    return sorted(imports, key=str)


def _level(name: str, levels: tuple[tuple[str, ...], ...]) -> int:
    for index, level in enumerate(levels):
        if name in level:
            return index
    raise UserError(f"{name} has no place among {levels}: give it one in scripts/draw_architecture.py")


def points_backwards(found: Import) -> bool:
    """Whether an import leads up or sideways: between folders, rooms of training, or two projects."""
    source, target = folder_of(found.source), folder_of(found.target)
    if source != target:
        return _level(target, FOLDERS) <= _level(source, FOLDERS)
    rooms = room_of(found.source), room_of(found.target)
    if None in rooms or rooms[0] == rooms[1]:
        return False
    if source == "projects":
        return True
    return source == "training" and _level(str(rooms[1]), ROOMS) <= _level(str(rooms[0]), ROOMS)


def folder_arrows(imports: Iterable[Import]) -> set[tuple[str, str]]:
    """(from, to) of every import between two folders."""
    arrows = {(folder_of(item.source), folder_of(item.target)) for item in imports}
    return {arrow for arrow in arrows if arrow[0] != arrow[1]}


def room_arrows(imports: Iterable[Import]) -> set[tuple[str, str]]:
    """(from, to) of every import between two rooms of training."""
    inside = [item for item in imports if folder_of(item.source) == folder_of(item.target) == "training"]
    arrows = {(room_of(item.source), room_of(item.target)) for item in inside}
    return {(a, b) for a, b in arrows if a is not None and b is not None and a != b}


def as_text(imports: Sequence[Import]) -> str:
    """What the picture shows, and the arrows that it leaves out."""
    modules = suite_modules()
    lines = [
        "Folders, from those that nothing imports to those that import nothing of the suite; in brackets their rooms.",
        "An arrow leads from the importing side to the imported one. The picture leaves out what stands last, arrows",
        "from its upper to its lowest row, and an arrow that two others in a row say. Red arrows point backwards.",
        "",
    ]
    for level in FOLDERS:
        for name in level:
            rooms = sorted({room for path in modules if folder_of(path) == name and (room := room_of(path))})
            lines.append(f"{name}{' [' + ', '.join(rooms) + ']' if rooms else ''}")
            targets = sorted(b for a, b in folder_arrows(imports) if a == name)
            lines += [f"    -> {', '.join(targets)}"] if targets else []
    lines += ["", "Rooms of training."]
    for room in (room for level in ROOMS for room in level):
        targets = sorted(b for a, b in room_arrows(imports) if a == room)
        lines.append(f"{room}{' -> ' + ', '.join(targets) if targets else ''}")
    backwards = [str(item) for item in imports if points_backwards(item)]
    return "\n".join([*lines, "", f"Imports that point backwards: {', '.join(backwards) or 'none'}."])


@dataclass(frozen=True)
class Box:
    """A rectangle; x, y is its lower left corner."""

    x: float
    y: float
    width: float
    height: float

    def draw(self, axes: Axes, title: str, words: str = "", *, fill: str = "white") -> None:
        """The rectangle with its title, at the top where words stand below it."""
        corners = "round,pad=0,rounding_size=1"
        place, size = (self.x, self.y), (self.width, self.height)
        axes.add_patch(FancyBboxPatch(place, *size, boxstyle=corners, facecolor=fill, edgecolor=GREY))
        middle, top = self.x + self.width / 2, self.y + self.height
        if not words:
            axes.text(middle, (self.y + top) / 2, title, ha="center", va="center", fontweight="bold")
            return
        axes.text(middle, top - 1.5, title, ha="center", va="top", fontweight="bold")
        axes.text(middle, top - 5, words, ha="center", va="top", fontsize=8, linespacing=1.35)

    def edge_towards(self, other: "Box", shift: float) -> tuple[float, float]:
        """Where a straight arrow between the two touches this one; `shift` moves it along the edge."""
        if self.y < other.y + other.height and other.y < self.y + self.height:  # side by side
            return self.x + (self.width if self.x < other.x else 0), self.y + self.height / 2 + shift
        narrow = self if self.width < other.width else other
        return narrow.x + narrow.width / 2 + shift, self.y + (self.height if self.y < other.y else 0)


def draw_arrow(axes: Axes, start: Box, end: Box, *, backwards: bool) -> None:
    """From box to box; one that points backwards is red and stands beside the one that does not."""
    shift = 2.0 if backwards else 0.0
    ends = start.edge_towards(end, shift), end.edge_towards(start, shift)
    color = RED if backwards else BLUE
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, color=color))


def direct(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that are not two others in a row."""
    return {(a, c) for a, c in arrows if not any((a, b) in arrows and (b, c) in arrows for _, b in arrows)}


def draw(imports: Sequence[Import]) -> Figure:
    """Who uses training above, training and its rooms in the middle, what it stands on below."""
    # The folders that others of the row import stand between them, so that no arrow crosses a box.
    upper, lower = (ENTRY, "projects", "analysis", "scripts"), FOLDERS[5]
    boxes = {name: Box(1 + 31 * index, 59, 26, 13) for index, name in enumerate(upper)}
    boxes["training"] = Box(1, 17, 119, 36)
    boxes |= {name: Box(7 + 39 * index, 1, 29, 10) for index, name in enumerate(lower)}
    rooms = {room: Box(43 + 26 * column, 41, 20, 5) for column, room in enumerate(ROOMS[0])}
    rooms |= {room: Box(43 + 26 * column, 33, 20, 5) for column, room in enumerate(ROOMS[1])}
    rooms |= {"settings": Box(43, 25, 46, 5), "storage": Box(43, 18.5, 72, 4)}
    modules = suite_modules()
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(12, 7.3))
        axes.set(xlim=(0, 121), ylim=(0, 73), aspect="equal")
        axes.axis("off")
        for name in (*upper, *lower):
            names = {f"{room}/" for path in modules if folder_of(path) == name and (room := room_of(path))}
            names |= {path.stem for path in modules if name == ENTRY and folder_of(path) == name}
            words = [", ".join(sorted(names)), ABOUT.get(name, "")]
            boxes[name].draw(axes, name, "\n".join(textwrap.fill(text, 36) for text in words if text))
        boxes["training"].draw(axes, "training", " ", fill="#F4F7FA")
        axes.text(4, 49, "the story of a run, which uses every room", fontsize=8, style="italic", va="top")
        story = [path.stem for path in modules if folder_of(path) == "training" and room_of(path) is None]
        half = -(-len(story) // 2)
        for x, column in ((4, story[:half]), (22, story[half:])):
            axes.text(x, 46, "\n".join(column), fontsize=8, va="top", linespacing=1.45)
        for room, box in rooms.items():
            box.draw(axes, room)
        folders = folder_arrows(imports)
        sideways = direct({arrow for arrow in folders if set(arrow) <= set(upper)})
        across = {arrow for arrow in folders if "training" in arrow and set(arrow) <= boxes.keys()}
        for arrows, places in ((sideways | across, boxes), (direct(room_arrows(imports)), rooms)):
            levels = FOLDERS if places is boxes else ROOMS
            for source, target in sorted(arrows):
                backwards = _level(target, levels) <= _level(source, levels)
                draw_arrow(axes, places[source], places[target], backwards=backwards)
    return figure


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "docs" / "pictures", metavar="DIR")
    folder = make_folder(parser.parse_args(argv).output_dir)
    imports = suite_imports()
    figure = draw(imports)
    save_figure(figure, folder / "architecture", ("png",))
    plt.close(figure)
    save_caption(as_text(imports), folder / "architecture.txt")
    print(as_text(imports))
    sys.exit(any(points_backwards(item) for item in imports))


if __name__ == "__main__":
    main()
