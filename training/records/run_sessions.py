"""Which sessions of a run made its numbers, as `provenance.json` tells of them.

A run may go on with other judging, on other test data, from another commit: its numbers are of the last session that
trained or judged, and its weights of all of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_OF_THE_FIRST = ("config", "datasets")  # a session repeats them only where its own differ


def numbers_of(provenance: Mapping[str, Any], logged: int) -> dict[str, Any]:
    """The whole description of the session that the present numbers are of; `sessions` are all that they rest on.

    logged: the last update in the run's log, which tells what a killed session did.
    """
    first = {name: provenance[name] for name in _OF_THE_FIRST if name in provenance}
    found = provenance.get("sessions")
    sessions = [{**first, **entry} for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
    reached = [*(session.get("start_step") for session in sessions[1:]), logged]
    traced = [one for one, later in zip(sessions, reached, strict=False) if _left_a_trace(one, later)]
    sessions = traced or sessions[-1:]
    last = sessions[-1] if sessions else {}
    return {**provenance, **last, "sessions": sessions or [dict(provenance)]}


def sessions_of(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The sessions of several runs, of one after the other; of a record that tells of none, itself."""
    return [session for record in records for session in record.get("sessions") or [record]]


def _left_a_trace(session: Mapping[str, Any], reached: Any) -> bool:
    """Whether a session judged the run at its end, or made updates.

    reached: the update that the next session began at or, of the last one, that its log ends at.
    """
    start, end = session.get("start_step"), session.get("end_step")
    if session.get("outcome") == "done" or type(start) is not int:
        return True
    if type(end) is not int:  # killed
        end = reached
    return type(end) is int and end > start
