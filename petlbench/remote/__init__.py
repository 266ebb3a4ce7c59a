"""Both ends of a model behind HTTP: the client that a run asks through, and the server behind ``petlbench serve``."""
