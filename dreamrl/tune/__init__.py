"""Searching for settings on Ray Tune."""
