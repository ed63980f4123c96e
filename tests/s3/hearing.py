"""An observer that remembers what it heard."""

from dataclasses import dataclass, field


@dataclass
class Heard:
    """What an uploader said of its work."""

    parts: list[tuple[int, bool]] = field(default_factory=list)
    """Size of each part sent, and whether it was sent before."""
    resumed: int = 0
    delivered: int = 0
    sizes: list[tuple[int, bool]] = field(default_factory=list)
    """Of the objects delivered, and whether each was one of the detail lane."""
    aborted: int = 0
    not_aborted: int = 0
    bytes_read_back: int = 0

    def part_sent(self, destination: str, size: int, seconds: float, *, repeated: bool) -> None:
        assert seconds >= 0
        self.parts.append((size, repeated))

    def parts_resumed(self, destination: str, count: int) -> None:
        self.resumed += count

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        assert seconds >= 0
        self.delivered += 1
        self.sizes.append((size, large))

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        self.aborted += count
        self.not_aborted += failed

    def read_back(self, destination: str, size: int) -> None:
        self.bytes_read_back += size
