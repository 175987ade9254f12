"""What goes wrong with requests to the small Hub of `fake_hub`."""

from dataclasses import dataclass, field


@dataclass
class Fault:
    """
    Attributes:
        kind: of the requests: `create`, `validate`, `preupload`, `batch`, `store` (upload of a large file), `commit`, `info`,
            `tree`, `head` (of a file), `file` (download), `storage` (download of a large file).
        file: only of files whose name ends so.
        skip: so many requests of the kind are answered first.
        times: so many fail, by default all.
        status: the answer, e.g. 503.
        received: the connection is cut after so many bytes of the request's body.
        sent: the connection is cut after so many bytes of the answer's body.
        pause: seconds without an answer, in the middle of the body where `sent` is given.
        headers: of the answer, in place of the right ones.
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
        """Whether it is this request's turn; counts it."""
        if kind != self.kind or not name.endswith(self.file) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True
