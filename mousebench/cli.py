"""The command line. Each command imports its work inside the function, so that ``list`` stays light."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mousebench.errors import (
    MissingData,
    MissingDependency,
    MousebenchError,
    UnknownIdentifier,
    UsageError,
    did_you_mean,
)

if TYPE_CHECKING:
    from mousebench.plugins import Catalogue, Entry
    from mousebench.registry import Registry
    from mousebench.runs import Done

_EXAMPLES = {
    "list": "mousebench list models",
    "show": "mousebench show sim-ns",
    "fetch": "mousebench fetch allen-ns-rdms --from FOLDER",
    "score": "mousebench score --model pixels,resnet18-random --benchmark sim-ns",
    "doctor": "mousebench doctor",
}


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
        return _report(error)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was finished is stored\n")
        return 130
    except BrokenPipeError:  # "mousebench list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _report(error: MousebenchError) -> int:
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mousebench", description="How mouse-like is a vision model?")
    parser.add_argument("--version", action="version", version=f"mousebench {_version()}")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="add a plugin file; repeatable"
    )
    parser.add_argument("--home", metavar="DIR", help="where data and representations are kept (MOUSEBENCH_HOME)")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_list(commands)
    _add_show(commands)
    _add_fetch(commands)
    _add_score(commands)
    _add_doctor(commands)
    return parser


def _version() -> str:
    from mousebench import __version__

    return __version__


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {_EXAMPLES[name]}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_list(commands: Any) -> None:
    parser = _command(commands, "list", _list, "list models, benchmarks and metrics")
    parser.add_argument("kind", nargs="?", choices=("models", "benchmarks", "metrics"), help="one kind; all by default")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_show(commands: Any) -> None:
    parser = _command(commands, "show", _show, "show what is known of one model, benchmark or metric")
    parser.add_argument("identifier", metavar="ID")


def _add_fetch(commands: Any) -> None:
    parser = _command(commands, "fetch", _fetch, "bring a benchmark's data to this machine")
    parser.add_argument("benchmark", metavar="BENCHMARK")
    parser.add_argument("--site", type=_names, metavar="S,...", help="only these sites")
    parser.add_argument("--from", dest="source", metavar="URL_OR_FOLDER", help="take the data from there")
    parser.add_argument("--jobs", type=_positive, default=4, metavar="N", help="transfers at a time (4)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be moved, and stop")


def _add_score(commands: Any) -> None:
    parser = _command(commands, "score", _score, "score models on a benchmark")
    parser.add_argument("--model", type=_names, required=True, metavar="M,...", help="identifiers, or file.py:function")
    parser.add_argument("--weights", metavar="FILE", help="safetensors or torch file to fill the one model with")
    parser.add_argument(
        "--layers",
        type=_names,
        metavar="PATTERN,...",
        help="names or globs; 'blocks': the top-level blocks; all by default",
    )
    parser.add_argument("--benchmark", required=True, metavar="B")
    parser.add_argument("--metric", type=_names, metavar="X,...", help="the benchmark's first by default")
    parser.add_argument("--site", type=_names, metavar="S,...", help="only these sites")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where nets run (auto)"
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="of folds, permutations and splits (0)")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes for the metrics (1)")
    parser.add_argument(
        "--json", metavar="FILE|-", help="write the results as JSON; - is stdout, instead of the tables"
    )
    parser.add_argument("--results", metavar="DIR", help="where results are stored (results in the home folder)")
    parser.add_argument("--force", action="store_true", help="compute again what is stored already")


def _add_doctor(commands: Any) -> None:
    parser = _command(commands, "doctor", _doctor, "show what is installed, fetched and cached")
    parser.add_argument("--remote", action="store_true", help="read one session of the Allen bucket and show its facts")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name in it")
    return list(dict.fromkeys(names))


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _apply_globals(options: argparse.Namespace) -> None:
    # environment variables, so that worker processes see them too
    if options.home:
        os.environ["MOUSEBENCH_HOME"] = str(Path(options.home).expanduser().resolve())
    if options.offline:
        os.environ["MOUSEBENCH_OFFLINE"] = "1"


def _discover(options: argparse.Namespace) -> Catalogue:
    from mousebench.plugins import discover

    return discover(options.plugin)


# list -----------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from mousebench.plugins import KINDS
    from mousebench.registry import read_registry

    found, registry = _discover(options), read_registry()
    kinds = (options.kind,) if options.kind else KINDS
    rows = {kind: [_row(entry, registry, found) for entry in _entries(found, kind)] for kind in kinds}
    if options.json:
        broken = [vars(item) for item in found.broken]
        _print_json({**{kind: rows.get(kind, []) for kind in KINDS}, "broken": broken})
        return 0
    for kind in kinds:
        _print_listing(kind, rows[kind])
    for item in found.broken:
        print(f"broken: plugin {item.plugin!r} of {item.distribution}: {item.cause}")
    return 0


def _entries(found: Catalogue, kind: str) -> Iterator[Entry]:
    for identifier in found.identifiers(kind):
        yield from found.entries[kind][identifier]


def _row(entry: Entry, registry: Registry, found: Catalogue) -> dict[str, Any]:
    plugin = entry.plugin
    clash = len(found.entries[entry.kind][entry.spec.listed]) > 1 or plugin.name in found.contested
    key = registry.citation(entry)
    return {
        "identifier": entry.spec.listed,
        "description": entry.spec.description,
        "plugin": "local" if plugin.distribution == "local" else plugin.name,
        "distribution": plugin.distribution,
        "status": "clash" if clash else registry.status(plugin.name, plugin.distribution),
        "missing": entry.missing(),
        "metadata": {**entry.spec.metadata, **({"reference": key} if key else {})},
    }


def _print_listing(kind: str, rows: Sequence[dict[str, Any]]) -> None:
    there = sum(not row["missing"] for row in rows)
    print(f"{kind} ({len(rows)}{f', {there} of them without a download' if there < len(rows) else ''})")
    columns = [
        [row["identifier"] for row in rows],
        [row["status"] for row in rows],
        [row["plugin"] for row in rows],
        [f"needs {row['missing']}" if row["missing"] else "" for row in rows],
        [row["description"] for row in rows],
    ]
    widths = [max(map(len, column), default=0) for column in columns]
    for cells in zip(*columns, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True) if width]
        print(f"  {'  '.join(padded)}".rstrip())


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


# show -----------------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    from mousebench.plugins import KINDS
    from mousebench.registry import read_registry

    os.environ["MOUSEBENCH_OFFLINE"] = "1"  # a question is no reason to download weights
    found, registry = _discover(options), read_registry()
    identifier = options.identifier
    kinds = [kind for kind in KINDS if found.has(kind, identifier)]
    if not kinds:
        known = [name for kind in KINDS for name in found.identifiers(kind)]
        guess = did_you_mean(identifier, known, 3)
        raise UnknownIdentifier(f"nothing is called {identifier!r}{guess}", "'mousebench list' shows everything")
    for kind in kinds:
        entry = found.find(kind, identifier)
        facts = [] if identifier == entry.spec.listed and entry.spec.family else _loaded_facts(entry, identifier)
        for name, value in [*_about(entry, identifier, registry), *facts]:
            print(f"{name:<14} {value}")
    return 0


def _about(entry: Entry, identifier: str, registry: Registry) -> list[tuple[str, str]]:
    plugin = entry.plugin
    key = registry.citation(entry)
    return [
        (entry.kind[:-1], identifier),
        ("description", entry.spec.description),
        ("plugin", f"{plugin.name}, from {plugin.distribution} {plugin.version}"),
        ("status", registry.status(plugin.name, plugin.distribution)),
        *((name.replace("_", " "), _plain(value)) for name, value in entry.spec.metadata.items()),
        *([("citation", f"{key}: {registry.citations.get(key, '')}")] if key else []),
    ]


def _plain(value: str | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _loaded_facts(entry: Entry, identifier: str) -> list[tuple[str, str]]:
    """Return what only the loaded thing knows; what cannot be loaded says why, in place of the facts."""
    try:
        thing = entry.load(identifier)
        if entry.kind == "benchmarks":
            rows = [
                ("version", str(thing.version)),
                ("sites", ", ".join(thing.sites)),
                ("metrics", ", ".join(thing.metrics)),
            ]
            return [*rows, *_data_state(thing)]
        if entry.kind == "metrics":
            definition = getattr(thing, "definition", {})
            rows = [("version", str(thing.version)), ("accepts", ", ".join(sorted(thing.accepts)))]
            return [*rows, *((name.replace("_", " "), str(value)) for name, value in definition.items())]
        layers = list(thing.layers)
        shown = ", ".join([*layers[:6], "..."] if len(layers) > 6 else layers)
        rows = [("layers by name", f"{len(layers)}: {shown}")]
        if hasattr(thing, "module") and "parameters" not in entry.spec.metadata:
            rows.append(("parameters", _plain(sum(parameter.numel() for parameter in thing.module.parameters()))))
        return [*rows, *((name, value) for name, value in thing.fingerprint.items())]
    except (MissingData, MissingDependency) as error:
        return [("missing", error.message), ("hint", error.hint)]


def _data_state(benchmark: Any) -> list[tuple[str, str]]:
    simulated = "simulated, " if getattr(benchmark, "simulated", False) else ""
    try:
        size = benchmark.stimuli().sizes
    except MissingData as error:
        return [("data", error.message), ("hint", error.hint)]
    return [("data", f"{simulated}{size['stimulus']} stimuli of {size['x']} x {size['y']} pixels")]


# fetch ----------------------------------------------------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    from mousebench.progress import progress_for_stderr

    benchmark = _discover(options).load("benchmarks", options.benchmark)
    if not hasattr(benchmark, "fetch"):
        print(f"{options.benchmark}: nothing to fetch, it makes its data itself")
        return 0
    if options.site:
        from mousebench.comparison import Named, choose_sites

        choose_sites(Named(options.benchmark, benchmark, None), options.site)
    progress = progress_for_stderr()
    try:
        report = benchmark.fetch(
            sites=options.site, source=options.source, jobs=options.jobs, dry_run=options.dry_run, progress=progress
        )
    finally:
        progress.finish()
    for line in report.lines:
        print(line)
    for line in report.failed:
        sys.stderr.write(f"failed: {line}\n")
    return 2 if report.failed else 0


# score ----------------------------------------------------------------------------------------------------------------


def _score(options: argparse.Namespace) -> int:
    from mousebench.plugins import split_local_model
    from mousebench.progress import progress_for_stderr
    from mousebench.runs import Request, check_writable, run
    from mousebench.store import default_results
    from mousebench.tables import print_result

    found = _discover(options)
    request = Request(
        models=_models(options, found),
        benchmark=options.benchmark,
        metrics=options.metric or (),
        sites=options.site,
        seed=options.seed,
        device=options.device,
        results=Path(options.results) if options.results else default_results(),
        jobs=options.jobs,
        force=options.force,
        plugin_files=options.plugin,
    )
    found.find("benchmarks", request.benchmark)
    for metric in request.metrics:
        found.find("metrics", metric)
    if len(request.models) == 1 and split_local_model(request.models[0]) is None:
        found.find("models", request.models[0])  # a typo is said before the benchmark's data are made or read
    check_writable(request.results)
    progress = progress_for_stderr()
    done = []
    try:
        for item in _stdout_kept_clean(run(request, found, progress)):
            done.append(item)
            if options.json != "-" and item.result is not None:
                progress.finish()
                print_result(item)
    finally:
        progress.finish()
    return _conclude(done, request.results, options.json)


def _models(options: argparse.Namespace, found: Catalogue) -> list[str]:
    """Return the models asked for; those with other weights or layers are put into the catalogue, as local ones."""
    from mousebench.api import changed_model

    models: list[str] = options.model
    if options.weights is not None and len(models) > 1:
        raise UsageError(f"--weights is for one model, not for {len(models)}", "score them one by one")
    if options.weights is None and options.layers is None:
        return models
    names = []
    for model in models:
        try:
            entry = changed_model(model, found, weights=options.weights, layers=options.layers)
        except MousebenchError:
            if len(models) == 1:
                raise
            names.append(model)  # the others are scored, and this one is said to fail
        else:
            found.add("models", entry.spec, entry.plugin)
            names.append(entry.spec.identifier)
    return names


def _stdout_kept_clean(items: Iterator[Done]) -> Iterator[Done]:
    """Yield the items; whatever plugins print while they are made goes to stderr."""
    while True:
        with contextlib.redirect_stdout(sys.stderr):
            item = next(items, None)
        if item is None:
            return
        yield item


def _conclude(done: Sequence[Done], results: Path, json_file: str | None) -> int:
    from mousebench.report_json import as_json
    from mousebench.tables import print_summary

    finished = [item for item in done if item.result is not None]
    if json_file:
        content = as_json([item.result for item in finished if item.result is not None])
        if json_file == "-":
            _print_json(content)
        else:
            from mousebench.assemblies import replacing

            with replacing(Path(json_file)) as temporary:
                temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if json_file != "-" and len(finished) > 1:
        print_summary(finished)
    if finished:
        reused = sum(item.reused for item in finished)
        note = f", {reused} of them from before (--force computes them again)" if reused else ""
        sys.stderr.write(f"{len(finished)} result(s) in {results}{note}\n")
    failed = [item for item in done if item.error is not None]
    for item in failed:
        if item.error is not None:
            _report(item.error)
    return 2 if failed else 0


# doctor ---------------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from mousebench.doctor import report

    rows = report(remote=options.remote)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
