"""Recipes: short typed functions in pipeline order. Read one and you have read the method."""
