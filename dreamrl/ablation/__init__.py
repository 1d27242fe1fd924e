"""One thing changed at a time: what every mechanism is worth."""
