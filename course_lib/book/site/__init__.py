"""The web site: pages and results as Sphinx builds them, slides, and the check of what was built."""
