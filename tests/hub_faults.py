"""Faults of requests to the small Hub of `fake_hub`."""

from dataclasses import dataclass, field


@dataclass
class Fault:
    """
    Attributes:
        kind: which requests fail: `create`, `validate`, `preupload`, `batch`, `store` (upload of a large file), `commit`,
            `info`, `tree`, `head` (of a file), `file` (download), `storage` (download of a large file).
        file: only files whose name ends with this.
        skip: number of requests of the kind that are answered before the first fault.
        times: number of requests that fail; by default all.
        status: HTTP status of the answer, e.g. 503.
        received: the connection is closed after this many bytes of the request's body.
        sent: the connection is closed after this many bytes of the answer's body.
        pause: seconds without an answer; with `sent`, the pause is in the middle of the body.
        headers: headers that replace those of the answer.
    """

    kind: str
    file: str = ""
    skip: int = 0
    times: int | None = None
    status: int | None = None
    received: int | None = None
    sent: int | None = None
    pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def hits(self, kind: str, name: str) -> bool:
        """Whether the fault applies to this request; counts the request."""
        if kind != self.kind or not name.endswith(self.file) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True
