"""Learning how answers are worded from what people like."""
