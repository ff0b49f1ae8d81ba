"""Why the operating system refused: errno by its name, in logs as in errors. docs/reference/errno.md explains each one.

The program that Postfix starts for each message imports this, so it imports built-in modules alone.
"""

import errno
import posix as os


def os_reason(error: BaseException) -> str:
    """Return why the system refused, by errno's name: `EROFS (Read-only file system)`. No path, and no text of others.

    Any other error is said by its class. So is one of a library's own class: ssl.SSLError and socket.gaierror number
    differently.
    """
    number = (error.errno or 0) if isinstance(error, OSError) and type(error).__module__ == "builtins" else 0
    return f"{errno.errorcode[number]} ({os.strerror(number)})" if number in errno.errorcode else type(error).__name__
