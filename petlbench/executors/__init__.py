"""Where the runs of a bench are carried out."""
