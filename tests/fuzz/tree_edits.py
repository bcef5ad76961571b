"""Damage to JSON and yaml that keeps them well formed, or nearly: wrong types, numbers, keys, depths."""

import copy
import json
from random import Random
from typing import Any

Tree = Any


def strange_value(rng: Random, old: Any) -> Any:
    """Something that a field of this kind should not be, or an extreme of what it may be."""
    values: list[Any] = [
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        255,
        2**31,
        -(2**31) - 1,
        2**53 + 1,
        2**63,
        2**64,
        10**30,
        10**400,
        0.5,
        -0.0,
        1.0,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "x",
        "0",
        "1",
        "null",
        "NaN",
        "\0",
        "a\nb",
        "\x1b[31mred",
        "\u0665",
        "\u202eabc",
        "\ud800",
        "../../etc/passwd",
        "/dev/zero",
        "???",
        "${oc.env:HOME}",
        "os.system",
        "x" * 20_000,
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": 1},
        [1, "2", None],
        list(range(2000)),
    ]
    if isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 1e300:
        values += [old + 1, old - 1, -old, old * 2, old / 2, float(old), str(old), [old]] * 3
    elif isinstance(old, str):
        values += [old + " ", old.upper(), old[:-1], old[::-1], [old], {old: old}, old + old] * 3
    elif isinstance(old, list):
        values += [
            old + old,
            old[:-1],
            old[::-1],
            {str(i): item for i, item in enumerate(old[:5])},
            str(old),
        ] * 3
    elif isinstance(old, dict):
        values += [list(old.items()), list(old), str(old)] * 3
    if rng.random() < 0.05:
        return nested(rng.choice([20, 50, 400]), rng.choice(["list", "dict"]))
    return rng.choice(values)


def nested(depth: int, kind: str) -> Any:
    """Containers in containers."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def _paths(tree: Tree, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    else:
        return []
    found = []
    for key, item in list(items)[:60]:
        found.append((*prefix, key))
        found.extend(_paths(item, (*prefix, key)))
    return found


def edit_tree(rng: Random, tree: Tree, changes: list[str]) -> Tree:
    """A copy with one to three entries replaced, removed, added, renamed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = _paths(tree)
        if not paths or rng.random() < 0.02:
            changes.append("the whole replaced")
            return strange_value(rng, tree)
        path = rng.choice(paths)
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        key, name = path[-1], "/".join(map(str, path))[:60]
        kind = rng.choice(["replace"] * 6 + ["remove", "remove", "add", "rename", "copy"])
        if kind == "replace":
            parent[key] = strange_value(rng, parent[key])
        elif kind == "remove":
            del parent[key]
        elif kind == "copy":
            source = rng.choice(paths)
            value = tree
            for part in source:
                value = value[part] if not isinstance(value, list) or part < len(value) else None
            parent[key] = copy.deepcopy(value)
        elif isinstance(parent, dict):
            new = rng.choice(["x", "", str(key) + "s", str(key).upper(), "__class__", "a.b", "\ud800", "???", "\x1b"])
            parent[new] = strange_value(rng, parent[key])
            if kind == "rename":
                del parent[key]
        else:
            parent.insert(key, strange_value(rng, parent[key]))
        changes.append(f"{kind} {name}")
    return tree


def json_bytes(rng: Random, tree: Tree, changes: list[str]) -> bytes:
    """JSON text of a tree, at times with a doubled key, a hole of depth, a trailing comma or another coding."""
    text = json.dumps(tree, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.8)
    kind = rng.choice([None] * 8 + ["double key", "deep", "huge number", "comma", "comment", "utf-16"])
    if kind is not None:
        changes.append(kind)
    if kind == "double key" and isinstance(tree, dict) and tree:
        key = rng.choice(list(tree))
        entry = f"{json.dumps(key)}: {json.dumps(strange_value(rng, tree[key]))}"
        if rng.random() < 0.5:
            text = text.replace("{", "{" + entry + ", ", 1)
        else:
            text = text.rstrip().removesuffix("}") + ", " + entry + "}"
    elif kind == "deep":
        depth = rng.choice([100, 2000, 100_000])
        opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
        hole = opening * depth + "1" + closing * rng.choice([depth, 0])
        text = hole if rng.random() < 0.3 else text.replace("{", '{"deep": ' + hole + ", ", 1)
    elif kind == "huge number":
        number = rng.choice(["1" * 5000, "1e999", "-1e999", "0." + "0" * 5000 + "1", "1E+400", "9" * 4000])
        text = text.replace(": 1", f": {number}", 1) if ": 1" in text else number
    elif kind == "comma":
        text = text.rstrip().removesuffix("}") + ",}"
    elif kind == "comment":
        text = "// a comment\n" + text
    elif kind == "utf-16":
        return text.encode("utf-16", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")
