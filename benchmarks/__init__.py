"""How fast cace is, as ratios on one machine in one run: `make bench`."""
