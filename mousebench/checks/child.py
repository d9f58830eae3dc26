"""What checks do in a fresh process: ``python -m mousebench.checks.child`` with a request in JSON on stdin.

It imports the plugin as it is: it is started where the plugin may run, by a process that is isolated itself if the
plugin is not trusted. Nothing heavy is imported at the top: the first thing that is looked at is what a plugin itself imports.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from mousebench.catalogue import Catalogue, Entry
from mousebench.errors import MousebenchError
from mousebench.names import split_local_model
from mousebench.plugins import GROUP, discover, local_model

# what takes long to import, or is there only to compute
HEAVY = frozenset(
    {
        *("torch", "torchvision", "timm", "transformers", "tensorflow", "jax", "keras", "numpy", "scipy", "pandas"),
        *("xarray", "h5py", "netCDF4", "PIL", "cv2", "skimage", "sklearn", "matplotlib", "requests"),
    }
)


def main() -> None:
    """Do what the request asks for, and write the answer to the file it names."""
    request = json.load(sys.stdin)
    try:
        answer = TASKS[request["task"]](request)
    except MousebenchError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def declare(request: dict[str, Any]) -> dict[str, Any]:
    """Import the plugin and call its hooks; say which heavy packages that brought in, and why it is broken if it is."""
    before = _top_packages()
    found = _discovered(request)
    heavy = sorted((_top_packages() - before) & HEAVY)
    return {"heavy": heavy, "broken": [item.cause for item in found.broken]}


def _top_packages() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def _discovered(request: dict[str, Any]) -> Catalogue:
    if request["file"]:
        return discover([request["file"]], installed=(), trust=True)
    return discover((), installed=[EntryPoint(request["plugin"], request["module"], GROUP)], trust=True)


def _load(request: dict[str, Any]) -> Any:
    entry = _entry(request)
    return entry.load(entry.spec.identifier if split_local_model(request["identifier"]) else request["identifier"])


def _entry(request: dict[str, Any]) -> Entry:
    local = split_local_model(request["identifier"])
    return (
        local_model(*local, trust=True) if local else _discovered(request).find(request["kind"], request["identifier"])
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load the model, give it the test images, and leave fingerprint and Grams."""
    from mousebench.checks.images import layers_of, make_images
    from mousebench.models import as_model

    model = as_model(_load(request))
    dataset = layers_of(model, make_images()).dataset
    return {
        "fingerprint": dict(model.fingerprint),
        "layers": dataset["layer"].values.tolist(),
        "grams": dataset["gram"].values.tolist(),
    }


def read(request: dict[str, Any]) -> dict[str, Any]:
    """Load the benchmark and its stimuli and targets, where no connection can be opened; say what is what."""
    from mousebench.errors import MissingData

    sys.addaudithook(_no_connection)
    benchmark = _load(request)
    try:
        benchmark.stimuli()
    except MissingData as error:
        return {"missing": error.message, "hint": error.hint}
    missing = 0
    for site in benchmark.sites:
        try:
            benchmark.target(site)
        except MissingData:
            missing += 1
    return {"sites without data": missing}


def _no_connection(event: str, _: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise ConnectionRefusedError("a benchmark's load, stimuli and target must not use the network")


TASKS = {"declare": declare, "answer": answer, "read": read}

if __name__ == "__main__":
    main()
