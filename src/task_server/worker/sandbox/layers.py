"""Which layers are on, and what they come to as one number."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Network = Literal["none", "index-only", "internet", "full"]
"""What functions reach, the least first."""

NAMES = ("process", "landlock", "uid", "namespace", "namespace + limits")
"""Of the levels, from 0."""


class Layers(Struct, frozen=True, kw_only=True):
    """What stands between a function and the machine, beside limits and a process of its own."""

    landlock: int = 0
    """Version of the kernel's interface, 0 without: which files can be reached."""
    seccomp: bool = False
    """Which system calls there are."""
    uid: bool = False
    """Each runner is another user."""
    namespace: bool = False
    """Each runner sees a tree, processes and devices of its own."""
    maps_user: bool = False
    """The namespaces are those of a user other than root."""
    cgroup: bool = False
    """The kernel counts memory and processes of each runner, with all that it starts."""

    @property
    def level(self) -> int:
        """From 0 to 4; each holds what those below it hold."""
        if not self.seccomp:
            return 0
        if self.namespace:
            return 4 if self.cgroup else 3
        if not self.landlock:
            return 0
        return 2 if self.uid else 1

    def lack_for(self, network: Network) -> str:
        """What is missing to hold functions to that network; "" if nothing is."""
        needs = {
            "none": (self.seccomp or self.namespace, "no seccomp and no network of its own"),
            "index-only": (self.namespace, "no network of its own"),
            "internet": (self.cgroup, "no control group"),
            "full": (True, ""),
        }
        is_held, lack = needs[network]
        return "" if is_held else f"{lack}, which --network {network} needs"

    @property
    def name(self) -> str:
        """For people."""
        return NAMES[self.level]
