"""Claims about memories, each tested with one command: the runs it needs, the rules that judge it, and the verdict."""
