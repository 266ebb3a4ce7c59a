"""Execute the runs of a bench, in this process or in workers, and show their progress."""
