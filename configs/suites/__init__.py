"""Suites: tasks, protocol and recipe."""
