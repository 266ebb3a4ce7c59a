"""The shapes of the papers' tables."""
