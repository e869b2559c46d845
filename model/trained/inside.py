"""Which networks can be looked into, and how."""

from __future__ import annotations

from collections.abc import Callable

from model.networks.contract import Inside
from model.trained import flexcare_inside
from tim_search.types import BadInput


def look_inside(name: str) -> Callable[..., Inside]:
    """The function that shows what happens inside a network, see `model.trained.flexcare_inside.look`.

    Raises:
        BadInput: the network has nothing of the kind to show.
    """
    if name != "flexcare":
        raise BadInput(
            f"network: {name} has no experts, no turns and no task tokens to look at; flexcare has. What {name} offers "
            "is in `tim-search report`."
        )
    return flexcare_inside.look
