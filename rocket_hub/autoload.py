"""Teach PEFT the ROCKET_MOE type as soon as PEFT itself is imported.

PEFT has no plugin mechanism, so an adapter type exists only once its package has been imported. Importing PEFT costs
many seconds; therefore `import rocket_hub` does not do it, but leaves a finder in `sys.meta_path` that imports
`rocket_hub.moe` right after the module `peft` has run.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_peft() -> None:
    """Register the adapter type now if PEFT is loaded, otherwise as soon as it is."""
    if "peft" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterPeft) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterPeft())


def _register() -> None:
    """Import `rocket_hub.moe`, which registers the type; never let a failure reach someone else's `import peft`."""
    try:
        import_module("rocket_hub.moe")
    except Exception as error:
        warnings.warn(
            f"rocket_hub could not register its adapter type with PEFT ({type(error).__name__}: {error}); "
            "ROCKET_MOE adapters will not load. `import rocket_hub.moe` shows the whole error.",
            stacklevel=2,
        )


class _AfterPeft(MetaPathFinder):
    """Finds `peft` where the other finders find it, and runs `_register` after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of `peft` with its `exec_module` extended, and None for every other module."""
        if fullname != "peft":
            return None
        # Only the finders behind this one are asked: two packages with such a finder would else ask each other forever.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                # It stays installed until peft has run: `importlib.util.find_spec("peft")` finds without running.
                return self._extend(spec)
        return None

    def _extend(self, spec: ModuleSpec) -> ModuleSpec:
        """Make the spec's loader register the type after it has run the module."""
        loader = spec.loader
        if loader is None:
            return spec
        run = loader.exec_module

        def run_then_register(module: ModuleType) -> None:
            run(module)
            if module.__name__ == "peft":
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

        # The loader keeps its class, so that whatever asks it for resources or source still gets them.
        loader.exec_module = run_then_register  # type: ignore[method-assign]
        return spec
