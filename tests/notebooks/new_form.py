"""The notebooks in the new form: lessons of one main line, with their further experiments in studies."""

NEW_FORM: tuple[str, ...] = (
    "01-knowledge-distillation",
    "studies/01-knowledge-distillation",
    "03-network-slimming",
    "studies/03-network-slimming",
    "05-eagleeye",
    "studies/05-eagleeye",
)
"""Names as in notebooks.book(), such as "05-eagleeye" and "studies/05-eagleeye"."""
