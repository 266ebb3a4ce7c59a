"""Named things that plugins provide: methods, tasks and backbones, found lazily and reported helpfully."""

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

from petlbench.errors import ConfigError, did_you_mean

T = TypeVar("T")


class NameTaken(ConfigError):
    """Two plugins claim one name: nobody can tell which one is meant."""


def normalise_name(name: str) -> str:
    """A name as aliases are compared: without case, blanks, hyphens, underscores and slashes."""
    return re.sub(r"[\s_/-]", "", name).lower()


@dataclass(frozen=True)
class _Broken:
    """A plugin that cannot be used."""

    name: str  # of its file, or of its entry point
    module: str
    problem: str

    def may_be(self, name: str) -> bool:
        """Whether someone who asks for a name may mean this plugin: it is called nearly so, or its text names it."""
        return bool(did_you_mean(name.partition("/")[0], [self.name])) or _names(self.module, name)


def _names(module: str, name: str) -> bool:
    """Whether the text of a module, which need not be one that Python understands, holds a name in quotes."""
    try:
        spec = importlib.util.find_spec(module)
        text = Path(spec.origin).read_text(encoding="utf-8", errors="replace") if spec is not None and spec.origin else ""
    except Exception:  # finding a module imports the packages that it lies in, which may be broken themselves
        return False
    return f'"{name}"' in text or f"'{name}'" in text


class Registry(Generic[T]):
    """Maps names to targets of one kind. A target registers itself when its module is imported; modules are imported when a name needs them.

    ``package``: a folder of plugins and nothing else; ``folder.NAME`` is where NAME and NAME/... are looked for first. Entry points of installed
    packages in the group ``petlbench.KINDs`` are found too: ``NAME = "module:attribute"``. A broken plugin is named where it may be the one that was
    asked for and in lists, and does not disturb the others.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._targets: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._aliases: dict[str, str] = {}  # plain form of a name or alias -> name
        self._broken: dict[str, _Broken] = {}  # by module
        self._is_complete = False

    def register(self, name: str, target: T, origin: str, aliases: Sequence[str] = ()) -> T:
        """Add a target that lives in the module ``origin``. A second module that claims the name is an error, and an alias that stands for another."""
        if self._origins.get(name, origin) != origin:
            raise NameTaken(f"{self.kind} '{name}' is registered twice: by {self._origins[name]} and by {origin}; rename one of them")
        self._targets[name] = target
        self._origins[name] = origin
        for alias in aliases:
            if self._aliases.setdefault(normalise_name(alias), name) != name:
                raise NameTaken(
                    f"{self.kind} '{name}': the alias '{alias}' stands for {self._aliases[normalise_name(alias)]} already; choose another"
                )
        return target

    def canonical(self, name: str) -> str:
        """The name that a name or an alias stands for, whatever its case, blanks, hyphens, underscores and slashes; itself when there is none."""
        return name if name in self else self._aliases.get(normalise_name(name), name)

    def get(self, name: str) -> T:
        """The target of that name. ConfigError with the nearest name when there is none."""
        if name not in self:
            raise ConfigError(
                f"no {self.kind} '{name}'.{did_you_mean(name, self.known())} (petlbench {self.kind}s lists all){self.reasons(name)}"
            )
        return self._targets[name]

    def known(self) -> list[str]:
        """All names, sorted, without a word about broken plugins."""
        self._import_everything()
        return sorted(self._targets)

    def reasons(self, name: str) -> str:
        """What is wrong with the plugins that may be the one meant by a name that there is not, to be appended to the error."""
        self._import_everything()
        return "".join(f"; {broken.problem}" for broken in self._broken.values() if broken.may_be(name))

    def __contains__(self, name: str) -> bool:
        for look in (self._import_folder_module, self._import_entry_points, lambda _: self._import_everything()):
            if name not in self._targets:
                look(name)
        return name in self._targets

    def names(self) -> list[str]:
        """All names, sorted. A plugin that cannot be imported is left out with a warning."""
        known = self.known()
        for broken in self._broken.values():
            warnings.warn(broken.problem, stacklevel=2)
        return known

    def origin(self, name: str) -> str:
        """The module that registered a name."""
        self.get(name)
        return self._origins[name]

    def _import_folder_module(self, name: str) -> None:
        stem = name.partition("/")[0]
        module = f"{self._package}.{stem}"
        if stem.isidentifier() and importlib.util.find_spec(module) is not None:
            self._import(module, stem)
            if module in self._broken:
                raise ConfigError(self._broken[module].problem)

    def _import_entry_points(self, name: str | None = None) -> None:
        """Those of one name, or all."""
        for entry in entry_points(group=f"petlbench.{self.kind}s"):
            if name in (None, entry.name):
                self._import(entry.module, entry.name)
                if entry.name not in self._targets and entry.module not in self._broken:
                    problem = f"{entry.module} announces a {self.kind} '{entry.name}' but does not register it"
                    self._broken[entry.module] = _Broken(entry.name, entry.module, problem)

    def _import_everything(self) -> None:
        if not self._is_complete:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                if not module.name.startswith("_"):
                    self._import(f"{self._package}.{module.name}", module.name)
            self._import_entry_points()
            self._is_complete = True

    def _import(self, module: str, name: str) -> None:
        """Import the module of the plugin of that name. One that breaks is taken down, and nothing of it stays registered; two plugins of one name are
        an error."""
        try:
            importlib.import_module(module)
        except NameTaken:
            raise
        except Exception as error:
            problem = f"the plugin module {module} cannot be imported: {type(error).__name__}: {error}"
            self._broken[module] = _Broken(name, module, problem)
            for registered in [registered for registered, origin in self._origins.items() if origin == module]:
                del self._targets[registered], self._origins[registered]


# The three that there are. They lie here, below everything that uses them; what a target is, is said where it is registered.
METHODS: Registry[Any] = Registry("method", package="petlbench.methods")  # petlbench.method.Method
TASKS: Registry[Any] = Registry("task", package="petlbench.datasets")  # petlbench.data.task: TaskSpec, DiskTask or TaskFamily
BACKBONES: Registry[Any] = Registry("backbone", package="petlbench.backbones.families")  # petlbench.backbones.backbone.Family
