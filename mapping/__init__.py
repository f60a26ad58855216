"""Loop nests, the rules of movement, the analytical models and the mapper."""
