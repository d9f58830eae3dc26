"""``mousebench new``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mousebench.commands.options import discovered

TEXT = "make a plugin that scores as it is written, with its test"
EXAMPLE = "mousebench new model my-net --file"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("kind", choices=("model", "benchmark", "metric"))
    parser.add_argument("name", metavar="NAME")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", action="store_true", help="one file in this folder; else into the checkout")
    where.add_argument("--package", metavar="DISTRIBUTION", help="a package of its own, in a new folder")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.registry import read_registry
    from mousebench.scaffold import carry_out, check_name, plan_file, plan_in_repository, plan_package

    kind, name, folder = options.kind, options.name, Path.cwd()
    module = check_name(name, discovered(options), read_registry())
    if options.file:
        plan = plan_file(kind, name, module, folder)
    elif options.package is not None:
        plan = plan_package(kind, name, module, folder, options.package)
    else:
        plan = plan_in_repository(kind, name, module, folder)
    carry_out(plan)
    for verb, paths in (("wrote", plan.created), ("changed", plan.edited)):
        for path in paths:
            print(f"{verb} {path.relative_to(folder) if path.is_relative_to(folder) else path}")
    print("\nnext:")
    for step in plan.next_steps:
        print(f"  {step}")
    return 0
