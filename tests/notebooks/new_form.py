"""The notebooks in the new form: lessons of one main line, with their further experiments in studies."""

NEW_FORM: tuple[str, ...] = ()
"""Names as in notebooks.book(), such as "05-eagleeye" and "studies/05-eagleeye"."""
