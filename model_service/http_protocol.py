"""HTTP as the service reads it: uvicorn's faster parser, which alone would take a head or a refused body of any length.

A client that is refused may still be sending, and would not see the answer if we hung up at once: a little more is
read and dropped.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 2**16  # the request line and the headers; nobody has shown a key before their end
UNWANTED_LIMIT_BYTES = 2**20  # of a body that was answered already


class LimitedHttp(HttpToolsProtocol):
    """One connection. A head over the limit is refused with 400, before all of it is in memory."""

    _reading_head = True
    _head_bytes = 0
    _unwanted_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came; hang up if it is a head without an end, or goes on though it was answered."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._reading_head:
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self.send_400_response(f"The head of a request may have {HEAD_LIMIT_BYTES} bytes.")
        elif self.cycle.response_complete:
            self._unwanted_bytes += len(data)
            if self._unwanted_bytes > UNWANTED_LIMIT_BYTES:
                self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin with the body."""
        self._reading_head, self._unwanted_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Begin with the next head."""
        self._reading_head, self._head_bytes = True, 0
        super().on_message_complete()
