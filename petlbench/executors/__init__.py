"""Where the runs of a bench are carried out, and what is seen of them meanwhile."""
