"""Speed as ratios taken in one run on one machine; results lie in `measured/`."""
