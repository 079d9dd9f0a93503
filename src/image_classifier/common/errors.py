"""The error that is shown to the user without a traceback."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota, file size limit


class InputError(Exception):
    """An error that the user can fix; only its message, one line or a few, is shown.

    The message names the file or the parameter, the value found, and the allowed values.
    """
