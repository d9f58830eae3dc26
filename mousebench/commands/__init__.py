"""The commands, a module each, in the order of the help.

A module has ``TEXT`` (what the command does, in one line), ``EXAMPLE``, ``add(parser)``, which gives it its options,
and ``run(options)``, which returns the exit code. It imports its work inside ``run``, so that ``list`` stays light.
"""

COMMANDS = (
    "list",
    "show",
    "fetch",
    "score",
    "compare",
    "leaderboard",
    "report",
    "new",
    "check",
    "validate",
    "reproduce",
    "doctor",
)
