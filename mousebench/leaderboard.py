"""Keep a leaderboard's files as results and registry.yaml make them: write what changed, or say what would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mousebench import board, board_files
from mousebench.assemblies import replacing
from mousebench.board import Leaderboard
from mousebench.errors import StoreError
from mousebench.home import home
from mousebench.provenance import installed_version
from mousebench.registry import read_registry, registry_path

MANIFEST = "files.txt"  # of a site: what was written, so that what is no longer part of it can go


@dataclass(frozen=True)
class Place:
    """Where results are, and where the files go; ``html`` is the folder of the site, None for none."""

    results: Path
    out: Path
    html: Path | None = None


def files(place: Place) -> dict[Path, str]:
    """Return all files as they should be, from the results and the registry alone."""
    made = board.make(place.results, read_registry())
    wanted = {place.out / name: text for name, text in board_files.texts(made).items()}
    if place.html is not None:
        wanted.update(_site(made, place.html))
    return wanted


def _site(made: Leaderboard, folder: Path) -> dict[Path, str]:
    from mousebench.site import pages

    texts = dict(pages(made))
    texts[MANIFEST] = "".join(f"{name}\n" for name in sorted(texts))
    return {folder / name: text for name, text in texts.items()}


def differences(place: Place) -> list[str]:
    """Return what is wrong with the files that are there, a line each; nothing is written."""
    wanted = files(place)
    wrong = []
    for path, text in wanted.items():
        if not path.is_file():
            wrong.append(f"{path} is not there")
        elif path.read_bytes() != text.encode():
            wrong.append(f"{path} is not what results and registry give")
    return wrong + [f"{path} is no longer part of the site" for path in _no_longer(place, wanted)]


def write(place: Place) -> list[Path]:
    """Write the files that are not there or differ, and return them; each is replaced whole.

    Where results, registry and mousebench are those of the last time, and the files too, nothing is made anew.
    """
    stamp = _stamp(place)
    inputs = _inputs(place)
    if _unchanged(stamp, inputs):
        return []
    wanted = files(place)
    gone = _no_longer(place, wanted)
    changed = [path for path, text in wanted.items() if not path.is_file() or path.read_bytes() != text.encode()]
    for path in changed:
        with replacing(path) as temporary:
            temporary.write_bytes(wanted[path].encode())
    for path in gone:
        path.unlink(missing_ok=True)
    outputs = {str(path): hashlib.sha256(text.encode()).hexdigest() for path, text in wanted.items()}
    with replacing(stamp) as temporary:
        temporary.write_text(json.dumps({"inputs": inputs, "outputs": outputs}), encoding="utf-8")
    return [*changed, *gone]


def _no_longer(place: Place, wanted: Mapping[Path, str]) -> list[Path]:
    """Return the files of a former site that are no longer part of it."""
    if place.html is None or not (place.html / MANIFEST).is_file():
        return []
    names = (place.html / MANIFEST).read_text(encoding="utf-8").splitlines()
    inside = [name for name in names if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts]
    old = [place.html / name for name in inside if name.endswith((".html", ".css", ".js"))]
    return [path for path in old if path not in wanted and path.is_file()]


# has anything changed? -------------------------------------------------------------------------------------------------


def _stamp(place: Place) -> Path:
    """Return the file that says what was written last to this place, and from what."""
    where = "\n".join(str(path.resolve()) for path in (place.results, place.out, place.html) if path is not None)
    return home() / "leaderboards" / f"{hashlib.sha256(where.encode()).hexdigest()[:16]}.json"


def _inputs(place: Place) -> str:
    """Return a hash of all that the files are made of: results, registry, and the code that makes them."""
    digest = hashlib.sha256()
    for folder, pattern in ((place.results, "*.nc"), (Path(__file__).parent, "*")):
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(folder).as_posix()} {_hash(path)}\n".encode())
    digest.update(_hash(registry_path()).encode())
    for package in ("jinja2", "matplotlib", "numpy", "scipy"):
        digest.update(installed_version(package).encode())
    return digest.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unchanged(stamp: Path, inputs: str) -> bool:
    try:
        last = json.loads(stamp.read_text(encoding="utf-8"))
        outputs: Iterable[tuple[str, str]] = last["outputs"].items() if last["inputs"] == inputs else ()
        return last["inputs"] == inputs and all(_hash(Path(path)) == digest for path, digest in outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def check_results(results: Path) -> None:
    """Raise StoreError if there is no folder of results."""
    if not results.is_dir():
        raise StoreError(f"there is no folder of results {str(results)!r}", "name it with --results")
