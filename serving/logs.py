"""What strangers do must not fill the operator's log."""

import errno
import logging
import threading
import time

#: Records are told apart by so much of their text, and so many kinds of them.
_KEY_CHARACTERS, _MOST_KINDS = 60, 100
#: What asyncio reports when a connection cannot be accepted.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class OneASecond(logging.Filter):
    """Of records that say the same, let one a second pass, and say how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        #: By what a record says: when the next may pass, and how many have not.
        self._state: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record passes."""
        error = record.exc_info[1] if record.exc_info else None
        key = str(record.msg)[:_KEY_CHARACTERS], type(error).__name__
        with self._lock:
            now = time.monotonic()
            if key not in self._state and len(self._state) >= _MOST_KINDS:
                key = "", ""  # so many kinds of records that they count as one
            following, withheld = self._state.get(key, (0.0, 0))
            if now < following:
                self._state[key] = following, withheld + 1
                return False
            self._state[key] = now + 1.0, 0
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
