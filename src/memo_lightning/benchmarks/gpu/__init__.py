"""All GPU checks and benchmarks in one command: ``python -m memo_lightning.benchmarks.gpu``.

It checks the correctness of every memory and measures its cost. It imports only the memories; measurements that need
other packages are skipped if these are missing.
"""
