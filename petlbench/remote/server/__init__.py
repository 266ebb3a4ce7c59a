"""``petlbench serve``: a backbone behind HTTP, which answers and gives nothing else away."""
