"""What runs and publishes the notebooks, and the `course` command."""


class CourseError(ValueError):
    """Error that the person at the keyboard can mend; the message says what and how.

    The command prints the message alone, without a traceback.
    """
