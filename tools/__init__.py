"""How things that ship with petlbench were made. Not installed with it."""
