"""The user's `[keymap]`: action names to keys, checked against the registry of actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from planner.tui.actions import ACTIONS, TABS, Action, show_key


@dataclass(frozen=True, slots=True)
class Keymap:
    """Which key does what, after the user's changes.

    Attributes:
        changed: Action names to keys, comma separated, only those that differ from the default.
        problems: One sentence for each entry that was left out, and for each clash.
    """

    changed: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def keys(self, action: Action) -> tuple[str, ...]:
        """The keys of an action as a person reads them."""
        keys = self.changed.get(action.name, action.keys)
        return tuple(show_key(key.strip()) for key in keys.split(",") if key.strip())


def read_keymap(entries: Mapping[str, str] | None) -> Keymap:
    """Check a `[keymap]`; what is wrong in it is left out and said, the rest holds."""
    changed: dict[str, str] = {}
    problems: list[str] = []
    for name, keys in (entries or {}).items():
        if name not in ACTIONS:
            near = get_close_matches(name, ACTIONS, n=1)
            problems.append(
                f'keymap: there is no action "{name}"' + (f', nearest "{near[0]}"' if near else "")
            )
        elif not keys.strip():
            problems.append(f'keymap: "{name}" is given no key')
        else:
            changed[name] = keys
    keymap = Keymap(changed)
    return Keymap(changed, (*problems, *_clashes(keymap)))


def _clashes(keymap: Keymap) -> list[str]:
    """Keys that do two things on one screen, where the user's keymap is the cause."""
    found: list[str] = []
    for tab in TABS:
        owner: dict[str, str] = {}
        for action in ACTIONS.values():
            # Lists are a part of some screens only, and a screen's own key goes first there.
            if action.scope not in (tab, "app"):
                continue
            for key in keymap.keys(action):
                other = owner.setdefault(key, action.name)
                text = f'keymap: "{key}" is both {other} and {action.name}'
                if other != action.name and text not in found:
                    found.append(text)
    return found
