"""Measurements of single mechanisms; nothing here is needed to train or to use a model."""
