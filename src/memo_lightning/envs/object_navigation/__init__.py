"""Object navigation in houses: trials of many episodes with one placement of objects."""
