"""A class: chapters handed out without solutions, submissions run in a sandbox, marked and answered."""
