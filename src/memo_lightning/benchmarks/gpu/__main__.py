"""Entry point of ``python -m memo_lightning.benchmarks.gpu``."""

import sys

from memo_lightning.benchmarks.gpu.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
