"""The laboratory: what chapters measure is kept in records, and cut to fit a budget."""
