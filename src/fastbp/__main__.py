"""The command line, ``python -m fastbp COMMAND``: demo, config and check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def _demo(arguments: list[str]) -> int:
    """Exact gradients for every loss, digits learned to 97 %, the time of a step."""
    from . import demo

    return demo.main(arguments)


def _config(arguments: list[str]) -> int:
    """What this installation runs: instruction set, threads, compiler."""
    import fastbp

    if arguments:
        print(f"python -m fastbp config: takes no arguments, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    fastbp.show_config()
    return 0


def _check(arguments: list[str]) -> int:
    """Check a gradient of yours: MODULE:FUNCTION, exit code 1 when it is wrong."""
    from .checking.cli import main as check

    return check(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {"demo": _demo, "config": _config, "check": _check}


def _usage() -> str:
    lines = [f"  {name:8}{(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: python -m fastbp COMMAND [--help]", "", *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command and what belongs to it; those of the process when omitted.

    Returns
    -------
    int
        The exit code: 0, or 2 for a command that does not exist, or what the command says.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"python -m fastbp: no command {command!r}; there are {known}\n\n{_usage()}", file=sys.stderr)
        return 2
    return COMMANDS[command](rest)


if __name__ == "__main__":
    sys.exit(main())
