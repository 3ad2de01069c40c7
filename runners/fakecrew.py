"""Who there is in a simulated job: workers that train, that come, that leave and that die."""

from __future__ import annotations

from collections.abc import Collection

from runners.fakestate import Change, Member, State

EXIT_STOPPED, EXIT_TERM, EXIT_KILL = 75, -15, -9


def training(state: State) -> list[Member]:
    """Those of the crew that live, by rank; the first one leads."""
    members = {member["number"]: member for member in state.members}
    return [members[n] for n in state.crew if members[n]["exit_code"] is None]


def of_unit(state: State, folder: str) -> list[Member]:
    """The workers of one unit, by rank."""
    return [member for member in state.members if member["folder"] == folder]


def living(members: Collection[Member]) -> list[Member]:
    """Those that have not ended."""
    return [member for member in members if member["exit_code"] is None]


def due(state: State, now_t: float) -> list[Member]:
    """Joining workers that should have attached by now and did not yet."""
    return [
        member
        for member in state.members
        if member["joins"] and not member["attached"]
        if member["exit_code"] is None and member["attach_t"] <= now_t
    ]


def end(members: Collection[Member], exit_code: int, t: float) -> None:
    """They exit."""
    for member in members:
        member["exit_code"], member["ended_t"] = exit_code, t


def tell_stop(state: State, members: Collection[Member], now_t: float) -> None:
    """SIGTERM. One that trains makes the whole crew stop at the next step boundary."""
    for member in living(members):
        if member["number"] not in state.crew:
            end([member], EXIT_STOPPED if member["attached"] else EXIT_TERM, now_t)
        elif state.stop_t is None:
            state.stop_t = now_t


def kill(state: State, members: Collection[Member], now_t: float) -> None:
    """SIGKILL. The others of the crew go on, once they have found out."""
    killed = living(members)
    end(killed, EXIT_KILL, now_t)
    lost = [member["number"] for member in killed if member["number"] in state.crew]
    if not lost:
        return
    state.t = max(state.t, now_t)  # the step that was under way is done again
    if training(state):
        state.lost += lost
    else:
        state.exit_code = EXIT_KILL


def regroup(state: State, crew: list[int]) -> list[Member]:
    """Make this the crew; those that leave, which exit with code 0.

    Those that stay keep their order and come before those that are new. When nobody stays, those
    that leave have handed over.
    """
    leaving = [member for member in training(state) if member["number"] not in crew]
    end(leaving, 0, state.t)
    if set(crew) != set(state.crew):
        stay = [number for number in state.crew if number in crew]
        state.crew = stay + [number for number in crew if number not in stay]
        state.generation += 1
    return leaving


def told_with(change: Change | None, new: Change) -> Change:
    """Two changes before the first step under them are told as one: asked for, then a loss."""
    if change is None:
        return new
    return Change(
        **{
            **change,
            "lost": change["lost"] + new["lost"],
            "stall_s": change["stall_s"] + new["stall_s"],
            "redone_samples": change["redone_samples"] + new["redone_samples"],
        }
    )
