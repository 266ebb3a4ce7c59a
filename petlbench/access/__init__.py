"""The access ladder: what a method may use of a model, enforced and counted."""
