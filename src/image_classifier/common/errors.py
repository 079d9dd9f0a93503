"""The error that a user is shown as one line."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota, limit of a file's size


class InputError(Exception):
    """Something the user can put right: its message, one line or a few, is all that is shown.

    The message names the file or the parameter, what was found, and what is allowed.
    """
