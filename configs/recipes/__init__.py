"""Recipes: how published work trains, prepares images and chooses the epoch."""
