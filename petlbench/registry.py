"""Named things that plugins provide: methods, tasks and backbones, found lazily and reported helpfully."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import warnings
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from petlbench.errors import ConfigError, PetlbenchError, did_you_mean

T = TypeVar("T")


def plain(name: str) -> str:
    """A name as aliases are compared: without case, blanks, hyphens, underscores and slashes."""
    return re.sub(r"[\s_/-]", "", name).lower()


class Registry(Generic[T]):
    """Maps names to targets of one kind. A target registers itself when its module is imported; modules are imported when a name needs them.

    ``package``: a folder of plugins; ``folder.NAME`` is where NAME and NAME/... are looked for first. Entry points of installed packages in
    the group ``petlbench.KINDs`` are found too: ``NAME = "module:attribute"``. A broken plugin is named and does not disturb the others.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._targets: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._aliases: dict[str, str] = {}  # plain form of a name or alias -> name
        self._broken: dict[str, str] = {}  # module -> what is wrong with it
        self._is_complete = False

    def register(self, name: str, target: T, origin: str, aliases: Sequence[str] = ()) -> T:
        """Add a target that lives in the module ``origin``. A second module that claims the name is an error, and an alias that stands for another."""
        if self._origins.get(name, origin) != origin:
            raise ConfigError(f"{self.kind} '{name}' is registered twice: by {self._origins[name]} and by {origin}; rename one of them")
        self._targets[name] = target
        self._origins[name] = origin
        for alias in aliases:
            if self._aliases.setdefault(plain(alias), name) != name:
                raise ConfigError(
                    f"{self.kind} '{name}': the alias '{alias}' stands for {self._aliases[plain(alias)]} already; choose another"
                )
        return target

    def canonical(self, name: str) -> str:
        """The name that a name or an alias stands for, whatever its case, blanks, hyphens, underscores and slashes; itself when there is none."""
        return name if name in self else self._aliases.get(plain(name), name)

    def get(self, name: str) -> T:
        """The target of that name. ConfigError with the nearest name when there is none."""
        if name not in self:
            hint = did_you_mean(name, self._targets)
            broken = "".join(f"; {problem}" for problem in self._broken.values())
            raise ConfigError(f"no {self.kind} '{name}'.{hint} (petlbench {self.kind}s lists all){broken}")
        return self._targets[name]

    def __contains__(self, name: str) -> bool:
        for look in (self._import_folder_module, self._import_entry_points, lambda _: self._import_everything()):
            if name not in self._targets:
                look(name)
        return name in self._targets

    def names(self) -> list[str]:
        """All names, sorted. A plugin that cannot be imported is left out with a warning."""
        self._import_everything()
        for problem in self._broken.values():
            warnings.warn(problem, stacklevel=2)
        return sorted(self._targets)

    def origin(self, name: str) -> str:
        """The module that registered a name."""
        self.get(name)
        return self._origins[name]

    def _import_folder_module(self, name: str) -> None:
        stem = name.partition("/")[0]
        module = f"{self._package}.{stem}"
        if stem.isidentifier() and importlib.util.find_spec(module) is not None and (problem := self._import(module)):
            raise ConfigError(problem)

    def _import_entry_points(self, name: str | None = None) -> None:
        """Those of one name, or all."""
        for entry in entry_points(group=f"petlbench.{self.kind}s"):
            if name in (None, entry.name):
                problem = self._import(entry.module)
                if entry.name not in self._targets:
                    self._broken[entry.module] = (
                        problem or f"{entry.module} announces a {self.kind} '{entry.name}' but does not register it"
                    )

    def _import_everything(self) -> None:
        if not self._is_complete:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                if not module.name.startswith("_"):
                    self._import(f"{self._package}.{module.name}")
            self._import_entry_points()
            self._is_complete = True

    def _import(self, module: str) -> str | None:
        """Import a plugin's module. What is wrong with a broken one, of which nothing stays registered; two plugins of one name are an error."""
        try:
            importlib.import_module(module)
        except PetlbenchError:
            raise
        except Exception as error:
            self._broken[module] = f"the plugin module {module} cannot be imported: {type(error).__name__}: {error}"
            for name in [name for name, origin in self._origins.items() if origin == module]:
                del self._targets[name], self._origins[name]
        return self._broken.get(module)


# The three that there are. They lie here, below everything that uses them; what a target is, is said where it is registered.
METHODS: Registry[Any] = Registry("method", package="petlbench.methods")  # petlbench.method.Method
TASKS: Registry[Any] = Registry("task", package="petlbench.datasets")  # petlbench.data.task: TaskSpec, DiskTask or TaskFamily
BACKBONES: Registry[Any] = Registry("backbone", package="petlbench.backbones")  # petlbench.backbones.backbone.Loader
