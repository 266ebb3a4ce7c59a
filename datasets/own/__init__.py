"""Tasks over the user's own images. Each public module registers one family, addressed as ``NAME:LOCATION``."""
