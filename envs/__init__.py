"""Worlds and the Gymnasium environment that scores dreams about them."""
