"""Every file of the suite is opened by `files.py`: a walk through all modules finds who opens one otherwise."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.draw_architecture import ROOT, suite_modules

OPENING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "fdopen", "fromfile", "tofile"}
OPENING |= {
    "copy",
    "copy2",
    "copyfile",
    "loadtxt",
    "genfromtxt",
    "savetxt",
    "load_file",
    "save_file",
    "mknod",
    "mkfifo",
}
# These take a name or an open file; it must be one that `files.py` or memory gave.
WITH_FILE = {
    "load",
    "save",
    "savez",
    "savez_compressed",
    "memmap",
    "ZipFile",
    "GzipFile",
    "TarFile",
    "savefig",
    "imread",
}
LIBRARIES = {"np", "numpy", "torch", "zipfile", "gzip", "tarfile", "plt", "figure"}
HANDLES = {"file", "opened", "buffer", "writer"}
# A library that takes a name only, or code that must run before anything of the suite can be imported.
ALLOWED = {
    ("files.py", "open"),
    ("training/storage/weights.py", "load_file"),  # safetensors: the name is checked, and was made by `open_new`
    ("training/storage/weights.py", "save_file"),
    ("training/storage/archive.py", "save"),  # into a writer that hashes what passes
    ("scripts/check_requirements.py", "read_text"),
}


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def opened_otherwise(path: str, tree: ast.Module) -> Iterator[str]:
    """`file:line call` of each call that opens a file by its name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, library = "", ""
        if isinstance(node.func, ast.Name):
            name = node.func.id
        elif isinstance(node.func, ast.Attribute):
            name, library = node.func.attr, ast.unparse(node.func.value)
        first = (
            node.args[0] if node.args else next((word.value for word in node.keywords if word.arg == "fileobj"), None)
        )
        if name in OPENING:
            shutil_or_own = library in ("shutil", "os") or not name.startswith("copy")
            # Of this suite: `read_bytes(path, bound, mend)` of dataset.safe_files, which goes through files.py.
            bounded = library == "" and name == "read_bytes"
            nowhere = first is not None and ast.unparse(first) == "os.devnull"
            found = shutil_or_own and not bounded and not nowhere
        else:
            in_memory = isinstance(first, ast.Call) and ast.unparse(first.func) == "io.BytesIO"
            handle = isinstance(first, ast.Name) and first.id in HANDLES
            found = name in WITH_FILE and library in LIBRARIES and not handle and not in_memory
        if found and (path, name) not in ALLOWED:
            yield f"{path}:{node.lineno} {ast.unparse(node.func)}"


def test_every_file_is_opened_in_one_place() -> None:
    found = [line for path in suite_modules() for line in opened_otherwise(path.as_posix(), parsed(path))]
    assert not found, "open these with files.py: " + ", ".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "open(p)", "p.open('w')", "os.open(p, 0)", "gzip.open(p)", "Path(p).read_text()", "p.write_bytes(b'')",
        "np.load(p)", "torch.load(p)", "np.memmap(p)", "zipfile.ZipFile(p)", "shutil.copyfile(a, b)", "p.touch()",
        "figure.savefig(p)", "load_file(p)", "np.save(p.with_name('x'), a)",
    ],
)  # fmt: skip
def test_the_walk_sees(source: str) -> None:
    assert list(opened_otherwise("some.py", ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    ["open_regular(p)", "np.load(file)", "torch.load(io.BytesIO(b))", "read_bytes(p, 1, m)", "os.open(os.devnull, 1)",
     "copy.copy(x)", "json.load(file)"],
)  # fmt: skip
def test_the_walk_passes(source: str) -> None:
    assert not list(opened_otherwise("some.py", ast.parse(source)))


def test_what_is_allowed_is_still_there() -> None:
    for path, name in ALLOWED:
        calls = {ast.unparse(node.func) for node in ast.walk(parsed(Path(path))) if isinstance(node, ast.Call)}
        assert any(call.split(".")[-1] == name for call in calls), f"{path} no longer calls {name}"


# `predict.py` colours its lines, of what a task draws; what `help_texts.py` prints was printed by `errors.say` before;
# the other must run before anything of the suite can be imported.
PRINTING = {"errors.py", "help_texts.py", "predict.py", "scripts/check_requirements.py"}


def test_everything_is_printed_in_one_place() -> None:
    """Words of files, arguments and folders reach a terminal through `errors.printable` only."""
    for path in suite_modules():
        calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
        bare = [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        bare += [call.lineno for call in calls if ast.unparse(call) in ("sys.stdout.write", "sys.stderr.write")]
        assert not bare or path.as_posix() in PRINTING, f"{path}:{bare[0]} prints: use errors.say"
