"""Running the chapters: one kernel a chapter, resumed and repeated; what they need, and what they show meanwhile."""
