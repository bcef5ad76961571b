"""Reading yaml that somebody else may have written: plain data only, bounded, nothing taken silently."""

from pathlib import Path
from typing import Any

import yaml

from dataset.safe_files import read_bytes
from errors import UserError

MAX_CONFIG_BYTES = 1 << 17  # the parser is slow: a megabyte takes it many seconds
MAX_YAML_ALIASES = 16
MAX_YAML_DEPTH = 32


def read_yaml(path: Path, expected: str) -> Any:
    """The value of a yaml file. Errors: `UserError` naming the file and ending with `expected`."""
    try:
        text = read_bytes(path, MAX_CONFIG_BYTES, expected).decode("utf-8")
        _check_events(path, text, expected)
        doubled = _doubled_key(yaml.compose(text, yaml.SafeLoader))
        if doubled is not None:
            raise UserError(f"{path}: {doubled!r} stands twice in one place, {expected}")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not safe yaml ({' '.join(str(error).split())[:200]}): {expected}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): {expected}") from None


def _check_events(path: Path, text: str, expected: str) -> None:
    """Refuse what makes a small file expand without bound (aliases) or the parser crawl (depth)."""
    aliases = depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_YAML_ALIASES:
            raise UserError(f"{path}: more than {MAX_YAML_ALIASES} yaml aliases, {expected} without")
        if depth > MAX_YAML_DEPTH:
            raise UserError(f"{path} is nested deeper than {MAX_YAML_DEPTH} levels, {expected}")


def _doubled_key(node: Any) -> str | None:
    """A key that a yaml mapping has twice, of which the loader would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    return str(key.value)
                seen.add(key.value)
            below = _doubled_key(value)
            if below is not None:
                return below
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            below = _doubled_key(item)
            if below is not None:
                return below
    return None
