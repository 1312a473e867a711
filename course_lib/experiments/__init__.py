"""The laboratory: records keep what chapters measure, and a budget in minutes limits how much they run."""
