"""Object navigation in houses on habitat-lab, with a simulator that pip alone can install."""

from memo_lightning.envs.habitat.shim import import_habitat

__all__ = ["import_habitat"]

import_habitat()  # before any other module of this package says `import habitat`
