"""What ``petlbench new-method`` writes."""
