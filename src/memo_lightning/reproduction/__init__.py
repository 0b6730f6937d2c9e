"""Claims about memories, each tested by one command: the runs it needs, the rule it is judged by, and the verdict."""
