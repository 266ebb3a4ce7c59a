"""Templates of the files that ``petlbench new-method`` writes."""
