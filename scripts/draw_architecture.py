"""Draw the folders of this suite and the imports between them, and say which imports point the wrong way.

    python scripts/draw_architecture.py [--output-dir docs/pictures]

Writes architecture.png and the same as text, architecture.txt. Exit code 1 where an import points backwards.
"""

import ast
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say
from files import bounded_text

require_packages()

from analysis.figures.figure_files import BLUE, GREY, RED, STYLE, Figure, make_folder, matplotlib, plt, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

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
    ("options.py", "arguments.py", "long_work.py"),
    ("errors.py",),
    ("help_texts.py",),
    ("files.py",),
)
# Likewise inside training/. The modules at its own level are the story of a run: they use every room.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("judges",),
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


def rooms_of(folder: str, modules: Iterable[Path]) -> list[str]:
    """The rooms of a folder, sorted."""
    return sorted({room for path in modules if folder_of(path) == folder and (room := room_of(path))})


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
        for node in ast.walk(ast.parse(bounded_text(root / path))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imports |= {Import(path, known[name]) for name in names if name in known}
    return sorted(imports, key=str)


def leads_back(source: str, target: str, levels: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the target stands above the source or beside it. Errors: `UserError` for what has no level."""
    level_of = {name: index for index, level in enumerate(levels) for name in level}
    for name in (source, target):
        if name not in level_of:
            raise UserError(f"{name} has no place among {levels}: give it one in scripts/draw_architecture.py")
    return level_of[target] <= level_of[source]


def points_backwards(item: Import) -> bool:
    """Whether an import leads up or sideways: between folders, rooms of training, or two projects."""
    source, target = folder_of(item.source), folder_of(item.target)
    if source != target:
        return leads_back(source, target, FOLDERS)
    room, other = room_of(item.source), room_of(item.target)
    if room is None or other is None or room == other:
        return False
    return source == "projects" or (source == "training" and leads_back(room, other, ROOMS))


def arrows_between(imports: Iterable[Import], box_of: Callable[[Path], str | None]) -> set[tuple[str, str]]:
    """(from, to) of every import between two boxes; `box_of` is None for a module that stands in none."""
    pairs = {(box_of(item.source), box_of(item.target)) for item in imports}
    return {(a, b) for a, b in pairs if a is not None and b is not None and a != b}


def training_room(module: Path) -> str | None:
    """The room of a module of training."""
    return room_of(module) if folder_of(module) == "training" else None


def as_text(imports: Sequence[Import]) -> str:
    """What the picture shows, and the arrows that it leaves out."""
    modules = suite_modules()
    lines = [
        "Folders, from those that nothing imports to those that import nothing of the suite; in brackets their rooms.",
        "An arrow leads from the importing side to the imported one. The picture leaves out what stands last, arrows",
        "from its upper to its lowest row, and an arrow that two others in a row say. Red arrows point backwards.",
        "",
    ]
    folders, rooms = arrows_between(imports, folder_of), arrows_between(imports, training_room)
    for name in itertools.chain.from_iterable(FOLDERS):
        inside = ", ".join(rooms_of(name, modules))
        lines.append(f"{name} [{inside}]" if inside else name)
        targets = ", ".join(sorted(target for source, target in folders if source == name))
        lines += [f"    -> {targets}"] if targets else []
    lines += ["", "Rooms of training."]
    for room in itertools.chain.from_iterable(ROOMS):
        targets = ", ".join(sorted(target for source, target in rooms if source == room))
        lines.append(f"{room} -> {targets}" if targets else room)
    backwards = [str(item) for item in imports if points_backwards(item)]
    return "\n".join([*lines, "", f"Imports that point backwards: {', '.join(backwards) or 'none'}."])


def draw_box(axes: "Axes", box: "Bbox", title: str, words: str = "", *, fill: str = "white") -> None:
    """The rectangle with its title, at the top where words stand below it."""
    corners = "round,pad=0,rounding_size=1"
    rounded = matplotlib.patches.FancyBboxPatch
    axes.add_patch(rounded(box.min, box.width, box.height, boxstyle=corners, facecolor=fill, edgecolor=GREY))
    middle = (box.x0 + box.x1) / 2
    height, side = (box.y1 - 1.5, "top") if words else ((box.y0 + box.y1) / 2, "center")
    axes.text(middle, height, title, ha="center", va=side, fontweight="bold")
    axes.text(middle, box.y1 - 5, words, ha="center", va="top", fontsize=8, linespacing=1.35)


def edge_towards(box: "Bbox", other: "Bbox", shift: float) -> tuple[float, float]:
    """Where a straight arrow between the two touches `box`; `shift` moves it along the edge."""
    if box.y0 < other.y1 and other.y0 < box.y1:  # side by side
        return box.x1 if box.x0 < other.x0 else box.x0, (box.y0 + box.y1) / 2 + shift
    above = box.x0 < other.x1 and other.x0 < box.x1
    narrow = box if not above or box.width < other.width else other
    return (narrow.x0 + narrow.x1) / 2 + shift, box.y1 if box.y0 < other.y0 else box.y0


def draw_arrow(axes: "Axes", start: "Bbox", end: "Bbox", *, backwards: bool) -> None:
    """From box to box; one that points backwards is red and stands beside the one that does not."""
    color, shift = (RED, 2.0) if backwards else (BLUE, 0.0)
    ends = edge_towards(start, end, shift), edge_towards(end, start, shift)
    arrow = matplotlib.patches.FancyArrowPatch
    axes.add_patch(arrow(*ends, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, color=color))


def direct(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that are not two others in a row."""
    return {(a, c) for a, c in arrows if not any((a, b) in arrows and (b, c) in arrows for _, b in arrows)}


def draw(imports: Sequence[Import]) -> Figure:
    """Who uses training above, training and its rooms in the middle, what it stands on below."""
    # The folders that others of the row import stand between them, so that no arrow crosses a box.
    upper, lower = (ENTRY, "projects", "analysis", "scripts"), FOLDERS[5]
    from_bounds = matplotlib.transforms.Bbox.from_bounds
    boxes = {name: from_bounds(1 + 31 * index, 59, 26, 13) for index, name in enumerate(upper)}
    boxes["training"] = from_bounds(1, 17, 119, 36)
    boxes |= {name: from_bounds(7 + 39 * index, 1, 29, 10) for index, name in enumerate(lower)}
    rooms = {"judges": from_bounds(43, 45.5, 46, 4)}
    for level, bottom in ((ROOMS[1], 38.5), (ROOMS[2], 31.5)):
        rooms |= {room: from_bounds(43 + 26 * column, bottom, 20, 4) for column, room in enumerate(level)}
    rooms |= {"settings": from_bounds(43, 25, 46, 4), "storage": from_bounds(43, 18.5, 72, 4)}
    modules = suite_modules()
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(12, 7.3))
        axes.set(xlim=(0, 121), ylim=(0, 73), aspect="equal")
        axes.axis("off")
        for name in (*upper, *lower):
            names = [f"{room}/" for room in rooms_of(name, modules)]
            names += [path.stem for path in modules if name == ENTRY == folder_of(path)]
            words = [", ".join(names), ABOUT.get(name, "")]
            draw_box(axes, boxes[name], name, "\n".join(textwrap.fill(text, 36) for text in words if text))
        draw_box(axes, boxes["training"], "training", " ", fill="#F4F7FA")
        axes.text(4, 49, "the story of a run, which uses every room", fontsize=8, style="italic", va="top")
        story = [path.stem for path in modules if folder_of(path) == "training" and room_of(path) is None]
        half = -(-len(story) // 2)
        for x, column in ((4, story[:half]), (22, story[half:])):
            axes.text(x, 46, "\n".join(column), fontsize=8, va="top", linespacing=1.45)
        for room, box in rooms.items():
            draw_box(axes, box, room)
        folders = arrows_between(imports, folder_of)
        sideways = direct({arrow for arrow in folders if set(arrow) <= set(upper)})
        across = {arrow for arrow in folders if "training" in arrow and set(arrow) <= boxes.keys()}
        inside = direct(arrows_between(imports, training_room))
        for arrows, places, levels in ((sideways | across, boxes, FOLDERS), (inside, rooms, ROOMS)):
            for source, target in sorted(arrows):
                draw_arrow(axes, places[source], places[target], backwards=leads_back(source, target, levels))
    return figure


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "docs" / "pictures", metavar="DIR")
    folder = make_folder(parser.parse_args(argv).output_dir)
    imports = suite_imports()
    picture = folder / "architecture"
    save_picture(draw(imports), picture, caption=as_text(imports), formats=("png",), generated=True)
    say(*as_text(imports).split("\n"))
    sys.exit(any(points_backwards(item) for item in imports))


if __name__ == "__main__":
    main()
