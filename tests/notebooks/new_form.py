"""The notebooks in the new form: lessons of one main line, with their further experiments in studies."""

NEW_FORM: tuple[str, ...] = (
    "00-why-compress",
    "studies/00-why-compress",
    "01-knowledge-distillation",
    "studies/01-knowledge-distillation",
    "02-pruning",
    "studies/02-pruning",
    "03-network-slimming",
    "studies/03-network-slimming",
    "04-l1-filter-pruning",
    "studies/04-l1-filter-pruning",
    "05-eagleeye",
    "studies/05-eagleeye",
    "06-post-training-quantization",
    "studies/06-post-training-quantization",
    "07-putting-it-together",
    "studies/07-putting-it-together",
    "08-low-rank-hashing-qat",
    "studies/08-low-rank-hashing-qat",
)
"""Names as in notebooks.book(), such as "05-eagleeye" and "studies/05-eagleeye"."""
