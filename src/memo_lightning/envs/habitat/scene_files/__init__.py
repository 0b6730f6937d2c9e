"""Generated houses as files that other simulators can load."""
