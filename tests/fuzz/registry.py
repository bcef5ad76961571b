"""All targets, by name."""

from tests.fuzz.engine import Target
from tests.fuzz.targets.collatz import CollatzCsv, CollatzFlags
from tests.fuzz.targets.command_lines import BuilderCommands, HydraCommands, KeyValues
from tests.fuzz.targets.configs import Configs
from tests.fuzz.targets.dataset_folder import DatasetFolder
from tests.fuzz.targets.golden import Golden
from tests.fuzz.targets.grid_files import GridFiles
from tests.fuzz.targets.mazes import MazeCsv, MazeTexts
from tests.fuzz.targets.puzzle_lists import PublishedCsv, RawPuzzleList
from tests.fuzz.targets.records import Records
from tests.fuzz.targets.restored import Restored
from tests.fuzz.targets.run_folders import RunFolders
from tests.fuzz.targets.run_record import RunRecord
from tests.fuzz.targets.states import States
from tests.fuzz.targets.weights import Weights


def all_targets() -> list[Target]:
    """A new instance of every target."""
    return [
        DatasetFolder(),
        PublishedCsv(),
        RawPuzzleList(),
        MazeCsv(),
        MazeTexts(),
        States(),
        Restored(),
        Weights(),
        RunRecord(),
        RunFolders(),
        Configs(),
        Records(),
        Golden(),
        GridFiles(),
        KeyValues(),
        BuilderCommands(),
        HydraCommands(),
        CollatzCsv(),
        CollatzFlags(),
    ]
