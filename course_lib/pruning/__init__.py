"""Pruning: what may go (criteria, masks), what goes with it (graph), how (surgery), and when to undo it (rollback)."""
