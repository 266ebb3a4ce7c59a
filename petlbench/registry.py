"""Registries of methods, tasks and backbones: plugins are imported when one of their names is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from petlbench.errors import ConfigError, described, did_you_mean, unknown

T = TypeVar("T")


class NameTaken(ConfigError):
    """Two plugins claim one name, so that it is ambiguous."""


def normalise_name(name: str) -> str:
    """Return a name in the form in which aliases are compared: lower case, without blanks, hyphens, underscores and slashes."""
    return re.sub(r"[\s_/-]", "", name).lower()


@dataclass(frozen=True)
class _Broken:
    """A plugin that cannot be imported, or does not register what it announces."""

    name: str  # of its file or entry point
    module: str
    problem: str

    def may_be(self, name: str) -> bool:
        """Return True when ``name`` is close to this plugin's own, or stands in its source."""
        return bool(did_you_mean(name.partition("/")[0], [self.name])) or _source_quotes(self.module, name)


def _source_quotes(module: str, name: str) -> bool:
    """Return True when a module's source, which may be invalid Python, has ``name`` in quotes."""
    try:
        spec = importlib.util.find_spec(module)
        text = Path(spec.origin).read_text(encoding="utf-8", errors="replace") if spec is not None and spec.origin else ""
    except Exception:  # find_spec imports the parent packages, which may be broken themselves
        return False
    return f'"{name}"' in text or f"'{name}'" in text


class Registry(Generic[T]):
    """Map names to targets of one kind. A target registers itself when its module is imported; modules are imported when a name needs them.

    ``locations``: packages whose public modules are all plugins, or single plugin modules. NAME and NAME/... are looked for in ``package.NAME`` first.
    Entry points of installed packages in the group ``petlbench.KINDs`` are found too: ``NAME = "module:attribute"``. A broken plugin is reported in
    lists and where it may be the one that was asked for; it does not affect the others.
    """

    def __init__(self, kind: str, *locations: str) -> None:
        self.kind = kind
        self.locations = locations
        self._targets: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._aliases: dict[str, str] = {}  # normalised alias -> name
        self._broken: dict[str, _Broken] = {}  # by module
        self._is_complete = False

    def register(self, name: str, target: T, origin: str, aliases: Sequence[str] = ()) -> T:
        """Add a target defined in the module ``origin``. NameTaken when another module has the name, or another name the alias."""
        if self._origins.get(name, origin) != origin:
            raise NameTaken(f"{self.kind} '{name}' is registered twice: by {self._origins[name]} and by {origin}; rename one of them")
        self._targets[name] = target
        self._origins[name] = origin
        for alias in aliases:
            if self._aliases.setdefault(normalise_name(alias), name) != name:
                raise NameTaken(
                    f"{self.kind} '{name}': the alias '{alias}' belongs to {self._aliases[normalise_name(alias)]} already; choose another"
                )
        return target

    def canonical(self, name: str) -> str:
        """Return the registered name for a name or an alias in any case and punctuation (see ``normalise_name``); the argument when there is none."""
        return name if name in self else self._aliases.get(normalise_name(name), name)

    def get(self, name: str) -> T:
        """Return the target of that name. ConfigError with the nearest name when there is none."""
        if name not in self:
            raise ConfigError(unknown(self.kind, name, self.known()) + self.reasons(name))
        return self._targets[name]

    def known(self) -> list[str]:
        """Return all names, sorted, without a warning about broken plugins."""
        self._import_everything()
        return sorted(self._targets)

    def reasons(self, name: str) -> str:
        """Return the problems of broken plugins that may have had an unknown name, for the end of its error message; empty when there are none."""
        self._import_everything()
        return "".join(f"; {broken.problem}" for broken in self._broken.values() if broken.may_be(name))

    def __contains__(self, name: str) -> bool:
        for search in (self._import_module_named, self._import_entry_points, lambda _: self._import_everything()):
            if name not in self._targets:
                search(name)
        return name in self._targets

    def names(self) -> list[str]:
        """Return all names, sorted. Warn of each plugin that cannot be imported."""
        known = self.known()
        for broken in self._broken.values():
            warnings.warn(broken.problem, stacklevel=2)
        return known

    @property
    def has_broken(self) -> bool:
        """True if a plugin is known to be broken."""
        return bool(self._broken)

    def origin(self, name: str) -> str:
        """Return the module that registered a name."""
        self.get(name)
        return self._origins[name]

    def _import_module_named(self, name: str) -> None:
        """Import ``package.NAME`` for a name NAME or NAME/..., from every package that has it."""
        stem = name.partition("/")[0]
        for module in [f"{location}.{stem}" for location in self.locations if _is_package(location)]:
            if stem.isidentifier() and importlib.util.find_spec(module) is not None:
                self._import(module, stem)
                if module in self._broken:
                    raise ConfigError(self._broken[module].problem)

    def _import_entry_points(self, name: str | None = None) -> None:
        """Import the entry points of one name, or all."""
        for entry in entry_points(group=f"petlbench.{self.kind}s"):
            if name in (None, entry.name):
                self._import(entry.module, entry.name)
                if entry.name not in self._targets and entry.module not in self._broken:
                    problem = f"{entry.module} announces a {self.kind} '{entry.name}' but does not register it"
                    self._broken[entry.module] = _Broken(entry.name, entry.module, problem)

    def _import_everything(self) -> None:
        if not self._is_complete:
            for module in self._modules():
                self._import(module, module.rpartition(".")[2])
            self._import_entry_points()
            self._is_complete = True

    def _modules(self) -> list[str]:
        """Return the plugin modules at the locations, in full."""
        found: list[str] = []
        for location in self.locations:
            if _is_package(location):
                inner = pkgutil.iter_modules(importlib.import_module(location).__path__)
                found += [f"{location}.{module.name}" for module in inner if not module.name.startswith("_")]
            else:
                found.append(location)
        return found

    def _import(self, module: str, name: str) -> None:
        """Import a plugin's module. When that fails, note the problem and remove what it has registered. NameTaken is passed on."""
        try:
            importlib.import_module(module)
        except (NameTaken, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit as well
            problem = f"the plugin module {module} cannot be imported: {described(error)}"
            self._broken[module] = _Broken(name, module, problem)
            for registered in [registered for registered, origin in self._origins.items() if origin == module]:
                del self._targets[registered], self._origins[registered]


def _is_package(location: str) -> bool:
    spec = importlib.util.find_spec(location)
    return spec is not None and spec.submodule_search_locations is not None


# Here, below everything that uses them; the types of their targets are defined above and only named:
METHODS: Registry[Any] = Registry("method", "petlbench.methods")  # petlbench.method.Method
TASKS: Registry[Any] = Registry(  # petlbench.data.task: TaskSpec, DiskTask or TaskFamily
    "task", "petlbench.datasets.mini", "petlbench.datasets.disk.suites", "petlbench.datasets.own"
)
BACKBONES: Registry[Any] = Registry("backbone", "petlbench.backbones.families")  # petlbench.backbones.backbone.Family
