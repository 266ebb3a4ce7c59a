"""Models that can be loaded by name. Every module here is a plugin: it registers what it loads."""
