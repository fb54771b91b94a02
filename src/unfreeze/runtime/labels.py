"""The ordered list of class names: the only place where an index gets a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Labels:
    """Ordered, unique class names; position i is the index i everywhere (logits, confusion, files)."""

    names: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {name: position for position, name in enumerate(self.names)}
        if len(index) != len(self.names):
            raise ValueError("label names repeat")
        object.__setattr__(self, "_index", index)

    @classmethod
    def of(cls, names: Iterable[str]) -> Labels:
        """The labels that occur, sorted by name so that the order never depends on the order of files."""
        return cls(tuple(sorted(set(names))))

    def index(self, name: str) -> int:
        """Position of a name; raises KeyError when it is unknown."""
        return self._index[name]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._index
