"""The learner's own folder: chapters without solutions, how far the work is, and one solution after a try."""
