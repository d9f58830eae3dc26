"""Which sessions are used and which site each belongs to (Conwell et al. 2020, their code; docs/data.md)."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mousebench.errors import StoreError, UnknownIdentifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SESSION_B = "three_session_B"
AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISam", "VISrl")
# area x layer as published: no layer 6 in VISal, VISam, VISrl
SITES = tuple(
    f"{area}.{layer}"
    for area in AREAS
    for layer in ("L23", "L4", "L5", "L6")
    if not (layer == "L6" and area in ("VISal", "VISam", "VISrl"))
)
EXCITATORY = frozenset({"Emx1", "Slc17a7", "Cux2", "Rorb", "Scnn1a", "Nr5a1", "Rbp4", "Fezf2", "Tlx3", "Ntsr1"})
INHIBITORY = frozenset({"Sst", "Vip", "Pvalb"})
# containers that the published analyses leave out: epileptiform or otherwise bad
BAD_CONTAINERS = frozenset({
    511510998, 511510681, 517328083, 527676429, 527550471, 530243910, 570278595, 571039045,
    585905043, 587695553, 596780703, 598134911, 599587151, 605113106,
})  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One imaging session, as the experiment table lists it."""

    id: int
    container_id: int
    container_failed: bool
    session_type: str
    area: str
    depth_um: int
    cre_line: str
    animal_id: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain mapping."""
        return asdict(self)


def cre_key(cre_line: str) -> str:
    """Return the part of a cre line that names it: the text before the first hyphen."""
    return cre_line.split("-")[0].strip()


def layer_by_depth(depth_um: int) -> str:
    """Return the layer of a depth: L23 below 200 um, L4 below 300, L5 below 500, else L6."""
    return "L23" if depth_um < 200 else "L4" if depth_um < 300 else "L5" if depth_um < 500 else "L6"


def conwell2020_site(area: str, depth_um: int, cre_line: str) -> str:
    """Return the site by the rule of 2020: by depth, but Nr5a1 and Scnn1a are layer 4 at any depth."""
    layer = "L4" if cre_key(cre_line) in ("Nr5a1", "Scnn1a") else layer_by_depth(depth_um)
    return f"{area}.{layer}"


def conwell2021_cell(area: str, depth_um: int, cre_line: str) -> str:
    """Return the site by the rule of the cell tables of 2021: by depth alone."""
    return f"{area}.{layer_by_depth(depth_um)}"


RULES: dict[str, Callable[[str, int, str], str]] = {
    "conwell2020_site": conwell2020_site,
    "conwell2021_cell": conwell2021_cell,
}


def why_left_out(experiment: Experiment) -> str:
    """Return why a session is not used, or an empty text if it is."""
    key = cre_key(experiment.cre_line)
    if experiment.session_type != SESSION_B:
        return "another session type"
    if experiment.container_failed:
        return "failed container"
    if experiment.container_id in BAD_CONTAINERS:
        return "container on the published list of bad ones"
    if key in INHIBITORY:
        return "inhibitory cre line"
    if key not in EXCITATORY:
        return "cre line of unknown kind"
    return ""


def select(experiments: Iterable[Experiment], rule: str) -> tuple[dict[str, list[Experiment]], dict[str, int]]:
    """Assign sessions to sites.

    Parameters
    ----------
    experiments : iterable of Experiment
    rule : str
        A name of ``RULES``.

    Returns
    -------
    by_site : mapping of site to its sessions, by id
    left_out : mapping of reason to how many sessions
    """
    by_site: dict[str, list[Experiment]] = {}
    left_out: Counter[str] = Counter()
    for experiment in sorted(experiments, key=lambda item: item.id):
        reason = why_left_out(experiment)
        site = site_of(experiment, rule)
        if not reason and site not in SITES:
            reason = "no published site"
        if reason:
            left_out[reason] += 1
        else:
            by_site.setdefault(site, []).append(experiment)
    return by_site, dict(left_out)


def site_of(experiment: Experiment, rule: str) -> str:
    """Return the site of a session."""
    return RULES[rule](experiment.area, experiment.depth_um, experiment.cre_line)


def check_sites(sites: Sequence[str] | None, known: Sequence[str], benchmark: str) -> tuple[str, ...]:
    """Return the sites asked for, all of them for None; raise UnknownIdentifier for one that is not known."""
    if sites is None:
        return tuple(known)
    for site in sites:
        if site not in known:
            raise UnknownIdentifier(f"{benchmark} has no site {site!r}", f"its sites are {', '.join(known)}")
    return tuple(dict.fromkeys(sites))


def parse_experiments(records: Any, name: str) -> list[Experiment]:
    """Return the sessions of an ``ophys_experiments.json``.

    Raises
    ------
    StoreError
        If it is not a list of records, or a record of session B lacks a field.
    """
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise StoreError(f"{name} is not a list of experiments")
    found = [_experiment(record, name) for record in records if _session_type(record) == SESSION_B]
    repeated = [identifier for identifier, count in Counter(item.id for item in found).items() if count > 1]
    if repeated:
        raise StoreError(f"{name} lists experiment {repeated[0]} more than once")
    return found


def _session_type(record: dict[str, Any]) -> Any:
    return record.get("stimulus_name", record.get("session_type"))


def _experiment(record: dict[str, Any], name: str) -> Experiment:
    try:
        donor = record["specimen"]["donor"]
        return Experiment(
            id=int(record["id"]),
            container_id=int(record["experiment_container_id"]),
            container_failed=bool((record.get("experiment_container") or {}).get("failed", False)),
            session_type=str(_session_type(record)),
            area=str(record["targeted_structure"]["acronym"]),
            depth_um=int(record["imaging_depth"]),
            cre_line=_cre_line(donor),
            animal_id=str(donor.get("external_donor_name") or donor["id"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{name}: experiment {record.get('id')!r} lacks or misstates a field: {error!r}") from error


def _cre_line(donor: dict[str, Any]) -> str:
    """Return the driver line whose name contains "Cre"; older tables give it in the genotype only."""
    for line in donor.get("transgenic_lines") or []:
        if line.get("transgenic_line_type_name") == "driver" and "Cre" in line.get("name", ""):
            return str(line["name"])
    parts = [part.split("/")[0].strip() for part in str(donor.get("full_genotype") or "").split(";")]
    return next((part for part in parts if "Cre" in part), "")
