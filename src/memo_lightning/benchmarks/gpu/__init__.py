"""Whatever needs a GPU, in one command: ``python -m memo_lightning.benchmarks.gpu``.

Correctness of every memory, then what it costs. It imports the memories alone; what needs more is skipped where that
is missing.
"""
