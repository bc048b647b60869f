"""How fast it is, against what one would do otherwise, on this machine, in one process."""
