"""What strangers do must not fill the operator's log."""

import errno
import logging
import threading
import time

#: What asyncio reports when a connection cannot be accepted.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class OneASecond(logging.Filter):
    """Let one record a second pass, and say how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._next, self._withheld = 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record passes."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self._withheld += 1
                return False
            withheld, self._next, self._withheld = self._withheld, now + 1.0, 0
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            # The cause in a line: that asyncio was accepting a connection is all the rest tells.
            record.msg, record.args, record.exc_info = (
                f"no connection can be taken: {error}",
                (),
                None,
            )
        if withheld:
            record.msg = f"{record.getMessage()} ({withheld} more lines were withheld)"
            record.args = ()
        return True


def quiet_logs() -> None:
    """Limit what requests can write to the log of this process; called once, by the server."""
    # On every form that is broken it writes a line.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
    for name in ("asyncio", "uvicorn.error", "serpipe.serving"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, OneASecond) for each in logger.filters):
            logger.addFilter(OneASecond())
