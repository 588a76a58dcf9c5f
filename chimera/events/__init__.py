"""Events: what one record of the log is (event), which types there are (types), how they are chained (chain)."""

from chimera.events.event import Event, Problem, event_to_json
from chimera.events.types import EVENT_TYPES

__all__ = ["EVENT_TYPES", "Event", "Problem", "event_to_json"]
