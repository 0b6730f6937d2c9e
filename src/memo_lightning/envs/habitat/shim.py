"""Import of habitat-lab on machines without habitat-sim.

habitat-lab imports ``habitat_sim``, ``magnum`` and ``corrade`` at import time, even for parts that never use
them, and habitat-sim is not on PyPI. While habitat-lab is imported, placeholders stand in for those three
packages; afterwards they are removed from ``sys.modules``, so that ``import habitat_sim`` fails as it should.
Where habitat-sim is installed, nothing is replaced.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from abc import ABCMeta
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from memo_lightning.errors import UserError

_REPLACED = ("habitat_sim", "magnum", "corrade")
INSTALL_HABITAT_SIM = "conda install habitat-sim headless -c aihabitat-nightly -c conda-forge"


def import_habitat() -> ModuleType:
    """Import habitat-lab, with placeholders for habitat-sim if that is missing, and return it.

    Raises:
        UserError: if habitat-lab itself is not installed.
    """
    if "habitat" in sys.modules:
        return sys.modules["habitat"]
    if importlib.util.find_spec("habitat") is None:
        raise UserError("habitat-lab is not installed: pip install 'memo-lightning[habitat]'")
    _be_quiet()
    if habitat_sim_is_installed():
        return importlib.import_module("habitat")

    finder = _PlaceholderFinder()
    sys.meta_path.insert(0, finder)
    try:
        habitat = importlib.import_module("habitat")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in _REPLACED]:
            del sys.modules[name]
    _disable_real_simulators(habitat)
    return habitat


def _be_quiet() -> None:
    """Keep stderr clean: no log line per simulator, no notice against the gym that habitat needs."""
    os.environ.setdefault("HABITAT_SIM_LOG", "quiet")
    os.environ.setdefault("MAGNUM_LOG", "quiet")
    os.environ.setdefault("HABITAT_LAB_LOG", str(logging.WARNING))
    if importlib.util.find_spec("gym_notices") is not None:
        importlib.import_module("gym_notices.notices").notices.clear()


def habitat_sim_is_installed() -> bool:
    """Return whether the real habitat-sim can be imported."""
    return importlib.util.find_spec("habitat_sim") is not None


class _PlaceholderMeta(ABCMeta):
    """Metaclass of classes whose every attribute is another placeholder class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        placeholder = _placeholder(name)
        setattr(cls, name, placeholder)
        return placeholder

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls


def _placeholder(name: str) -> _PlaceholderMeta:
    """Return a class that can be subclassed, subscripted, used in annotations and as a decorator."""

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        is_decorator = len(args) == 1 and not kwargs and callable(args[0])
        return args[0] if is_decorator else object.__new__(cls)

    def instance_attribute(self: Any, attribute: str) -> Any:
        return getattr(type(self), attribute)

    namespace = {
        "__new__": new,
        "__init__": lambda self, *args, **kwargs: None,
        "__getattr__": instance_attribute,
        "__class_getitem__": classmethod(lambda cls, item: cls),
    }
    return _PlaceholderMeta(name, (), namespace)


class _PlaceholderModule(ModuleType):
    """A module whose attributes are placeholder classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        placeholder = _placeholder(name)
        setattr(self, name, placeholder)
        return placeholder


class _PlaceholderFinder(MetaPathFinder, Loader):
    """Finder and loader of placeholder modules for the packages that come with habitat-sim."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Claim the replaced packages and their sub-modules; leave every other import alone."""
        if fullname.split(".")[0] not in _REPLACED:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty placeholder module."""
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module makes its attributes on demand."""


def _disable_real_simulators(habitat: ModuleType) -> None:
    """Make simulators that were built on placeholders say what is missing instead of half working."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise UserError(f"this simulator needs habitat-sim, which is not installed: {INSTALL_HABITAT_SIM}")

    for name in habitat.registry.mapping["sim"]:
        refusing = type("MissingHabitatSim", (habitat.Simulator,), {"__init__": refuse})
        habitat.registry.register_simulator(refusing, name=name)
