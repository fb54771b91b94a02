"""What can be grafted onto a frozen backbone: low-rank updates (LoRA, through PEFT) and bottleneck adapters.

Importing this package loads neither torch nor PEFT: each function imports what it needs.
"""

from unfreeze.grafts.attach import (
    attach,
    can_be_merged,
    describe,
    pack,
    refuse_broken,
    restore,
    settle,
    unpack,
)

__all__ = ["attach", "can_be_merged", "describe", "pack", "refuse_broken", "restore", "settle", "unpack"]
