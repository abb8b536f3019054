"""Keep clients from flooding the operator's log."""

import errno
import logging
import threading
import time

#: Records are distinguished by this many characters, and this many kinds of them.
_KEY_CHARACTERS, _MOST_KINDS = 60, 100
#: Errors that asyncio reports when it cannot accept a connection.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class OneASecond(logging.Filter):
    """Let one record of each kind pass per second, and count the others."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        #: By kind of record: when the next may pass, and how many were withheld.
        self._state: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        error = record.exc_info[1] if record.exc_info else None
        key = str(record.msg)[:_KEY_CHARACTERS], type(error).__name__
        with self._lock:
            now = time.monotonic()
            if key not in self._state and len(self._state) >= _MOST_KINDS:
                key = "", ""  # too many kinds: the rest count as one
            following, withheld = self._state.get(key, (0.0, 0))
            if now < following:
                self._state[key] = following, withheld + 1
                return False
            self._state[key] = now + 1.0, 0
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            # One line with the cause; the traceback only shows that asyncio was accepting.
            record.msg, record.args, record.exc_info = (
                f"no connection can be accepted: {error}",
                (),
                None,
            )
        if withheld:
            record.msg = f"{record.getMessage()} ({withheld} more lines were withheld)"
            record.args = ()
        return True


def quiet_logs() -> None:
    """Limit what requests can write to the log of this process."""
    # It would write a line for every malformed form.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
    for name in ("asyncio", "uvicorn.error", "serpipe.serving"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, OneASecond) for each in logger.filters):
            logger.addFilter(OneASecond())
