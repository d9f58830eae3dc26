"""The command line: finds the command, runs it, and prints a user's mistakes as one line and a hint."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mousebench.commands import COMMANDS
from mousebench.errors import MousebenchError, UsageError, did_you_mean, print_error


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are mousebench's errors, with the closest known word."""

    def error(self, message: str) -> NoReturn:
        choices = [name for action in self._actions for name in action.choices or ()]
        wrong = message.partition("invalid choice: '")[2].partition("'")[0] if "invalid choice" in message else ""
        guess = did_you_mean(wrong, choices)
        if wrong and guess:
            message = f"unknown {wrong!r}{guess}"
        raise UsageError(message, f"'{self.prog} -h' shows what there is")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 where a check found something, 2 for a user's error."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(arguments)
        _apply_globals(options)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except MousebenchError as error:
        if debug:
            raise
        print_error(error)
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was finished is stored\n")
        return 130
    except BrokenPipeError:  # "mousebench list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mousebench", description="How mouse-like is a vision model?")
    parser.add_argument("--version", action="version", version=f"mousebench {_version()}")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="add a plugin file; repeatable"
    )
    parser.add_argument("--home", metavar="DIR", help="where data and representations are kept (MOUSEBENCH_HOME)")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument(
        "--trust-plugins", action="store_true", help="run plugins of others in this process (MOUSEBENCH_TRUST_PLUGINS)"
    )
    parser.add_argument(
        "--plugin-memory", metavar="GB", help="what a plugin of others may use (16, or 3/4 of the machine's)"
    )
    parser.add_argument("--plugin-time", metavar="MINUTES", help="what each step of one may take (60)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"mousebench.commands.{name}")
        text = command.TEXT
        own = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {command.EXAMPLE}"
        )
        command.add(own)
        own.set_defaults(run=command.run)
    return parser


def _version() -> str:
    from mousebench import __version__

    return __version__


def _apply_globals(options: argparse.Namespace) -> None:
    # environment variables, so that worker processes see them too
    if options.home:
        os.environ["MOUSEBENCH_HOME"] = str(Path(options.home).expanduser().resolve())
    if options.offline:
        os.environ["MOUSEBENCH_OFFLINE"] = "1"
    if options.trust_plugins:
        os.environ["MOUSEBENCH_TRUST_PLUGINS"] = "1"
    for value, name in ((options.plugin_memory, "MEMORY"), (options.plugin_time, "TIME")):
        if value is not None:
            os.environ[f"MOUSEBENCH_PLUGIN_{name}"] = value


if __name__ == "__main__":
    sys.exit(main())
