"""The parser of the scripts that take flags: help that reads like a manual, mistakes in one line."""

import argparse
from typing import Any, NoReturn

from errors import UserError


class FlagParser(argparse.ArgumentParser):
    """Flags are written out in full, help is printed as it is written. A mistake raises `UserError`.

    help_command: what lists the flags, without `--help`.
    """

    def __init__(self, program: str, *, help_command: str, **options: Any) -> None:
        super().__init__(program, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.help_command = help_command

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.help_command} --help lists the flags")
