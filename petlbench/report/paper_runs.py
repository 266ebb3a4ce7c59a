"""Our runs that belong in a paper's table: the user's choice among them, their repetitions, and where they leave the paper's protocol."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from petlbench.analysis.aggregate import runs_frame
from petlbench.config.settings import Protocol
from petlbench.errors import TableError
from petlbench.published.numbers import method_name
from petlbench.records.schema import Record
from petlbench.report.paper_shape import NOT_COMPARED, Panel, PaperTable

Run = dict[str, Any]  # a row of runs_frame with the protocol's settings
Repetition = tuple[int, str]  # seed, seed of the few-shot draw
Line = tuple[str, str]  # our label of a method, shots as in published numbers


@dataclass(frozen=True)
class Choice:
    """The user's choice of runs for a table."""

    backbone: str | None = None  # None: the paper's
    protocol: str | None = None  # a name or an id; needed where there are runs of several
    seeds: tuple[int, ...] = ()  # empty: all
    is_partial: bool = False  # averages over the columns that all rows have


@dataclass
class PanelRuns:
    """The runs of one panel."""

    accuracies: dict[Line, dict[str, dict[Repetition, float]]]  # line -> dataset -> repetition -> percent
    backbone: str
    off_protocol: dict[str, list[str]] = field(default_factory=dict)  # dataset -> settings that differ from the paper's, in words
    protocols: list[str] = field(default_factory=list)  # ids
    selections: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _ in self.accuracies))


def all_runs(records: Iterable[Record]) -> list[Run]:
    """Return the rows of ``runs_frame`` with the settings of their protocols."""
    records = list(records)
    frame = runs_frame(records)
    settings = {record.key: record.protocol.settings for record in records}
    return [{**{str(key): value for key, value in run.items()}, "settings": settings[run["key"]]} for run in frame.to_dict("records")]


def runs_of(table: PaperTable, panel: Panel, runs: Sequence[Run], choice: Choice) -> PanelRuns:
    """Select the runs for a panel. TableError if they are of several protocols or of several weights of one backbone, and none is chosen."""
    backbone = choice.backbone or next(iter(table.backbones))
    tasks = {f"{panel.suite}/{dataset}": dataset for dataset in panel.datasets}
    chosen = [
        run
        for run in runs
        if run["task"] in tasks
        and backbone in (run["backbone"], run["backbone"].partition("@")[0])
        and (not choice.seeds or run["seed"] in choice.seeds)
        and (choice.protocol is None or choice.protocol in (run["protocol"], run["settings"].get("name")))
    ]
    _check_alike(f"{table.title}, {panel.title}", chosen)
    zero_shot = {method_name(table.paper, panel.suite, method).ours for method, shots in panel.lines if shots == "0"}
    found = PanelRuns({}, chosen[0]["backbone"] if chosen else backbone)
    shown = []
    for run in chosen:
        shots = "0" if run["method"] in zero_shot else _shots(panel, run["settings"])
        if shots in ("0", *panel.shots):
            shown.append(run)
            repetitions = found.accuracies.setdefault((run["method"], shots), {}).setdefault(tasks[run["task"]], {})
            repetitions[run["seed"], str(run["settings"].get("split_seed"))] = run["accuracy"]
    for run in shown:
        found.off_protocol[tasks[run["task"]]] = _differences(run["settings"], table.protocol(panel.suite, tasks[run["task"]]))
    found.protocols, found.selections, found.codes = (sorted({run[key] for run in shown}) for key in ("protocol", "selection", "code"))
    return found


def _differences(used: dict[str, Any], papers: dict[str, Any]) -> list[str]:
    used = asdict(Protocol()) | used  # a record lacks settings that are newer than it; their defaults keep the former behaviour
    return [f"{key} {used[key]} (paper: {value})" for key, value in papers.items() if used[key] != value]


def _shots(panel: Panel, settings: dict[str, Any]) -> str:
    """Return a protocol's shots as the panel names them: "all training images" has another name on each suite."""
    if settings.get("shots") is not None:
        return str(settings["shots"])
    return next((shots for shots in panel.shots if not shots.isdigit()), "all")


def _check_alike(where: str, runs: Sequence[Run]) -> None:
    """Raise TableError unless these runs may share a table: one backbone, one name of the protocol, one protocol in each column."""
    backbones = sorted({run["backbone"] for run in runs})
    if len(backbones) > 1:
        raise TableError(f"{where}: runs on other weights of one backbone, {', '.join(backbones)}; choose one with backbone=NAME@…")
    compared = defaultdict(set)
    for run in runs:
        settings = {key: value for key, value in run["settings"].items() if key not in NOT_COMPARED}
        compared[run["task"]].add(json.dumps([settings, run["protocol"].partition(" ")[2]], sort_keys=True))
    names = {str(run["settings"].get("name")) for run in runs}  # of a record's file: it may hold anything
    if len(names) > 1 or any(len(of_task) > 1 for of_task in compared.values()):
        counts = Counter(run["protocol"] for run in runs)
        listed = ", ".join(f"{count} runs of {protocol}" for protocol, count in counts.items())
        raise TableError(f"{where}: runs of several protocols cannot share a column; choose one with protocol=NAME ({listed})")
