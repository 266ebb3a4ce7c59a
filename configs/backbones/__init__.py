"""Backbone cards."""
