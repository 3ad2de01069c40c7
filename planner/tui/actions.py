"""The one registry of what a key can do.

Footer, help overlay, palette and the user's keymap are all made from `ACTIONS`, so that no key is
undocumented and none is unbindable. An action `scope.verb` is carried out by the method `do_verb`
of the active screen, or else of the app.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType

TABS: tuple[str, ...] = ("job", "probes", "options", "runs", "decisions", "history")
"""Screens behind the number keys, in their order."""

SCOPE_TITLES: dict[str, str] = {
    "app": "Everywhere",
    "list": "Lists",
    **{tab: tab.capitalize() for tab in TABS},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that a person can ask for.

    Attributes:
        name: `scope.verb`; what a keymap refers to.
        keys: Default keys, comma separated, as Textual names them.
        label: Word in the footer; empty keeps it out of there.
        text: Sentence in help and palette.
        changes: Whether it starts, stops or spends something; refused while read-only.
    """

    name: str
    keys: str
    label: str
    text: str
    changes: bool = False

    @property
    def scope(self) -> str:
        """Where it is available: a tab, `list`, or `app`."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """The part after the dot."""
        return self.name.partition(".")[2]


def _action(name: str, keys: str, label: str, text: str, *, changes: bool = False) -> Action:
    return Action(name=name, keys=keys, label=label, text=text, changes=changes)


_ALL: tuple[Action, ...] = (
    _action("job.probe", "enter", "Probe", "Run the probes", changes=True),
    _action("job.estimate", "e", "Estimate now", "Estimate without probes"),
    _action("job.save", "ctrl+s", "Save", "Save the job file", changes=True),
    _action("job.edit", "ctrl+e", "Edit", "Job file in $EDITOR", changes=True),
    _action("job.checks", "d", "Check again", "Check again"),
    _action("probes.options", "enter", "Options", "Go on to the options"),
    _action("probes.skip", "s", "Skip probe", "Skip the running probe", changes=True),
    _action("probes.stop", "x", "Stop probes", "Stop, use what there is"),
    _action("probes.log", "l", "Log", "Output of a failed probe"),
    _action("options.launch", "L", "Launch", "Launch this option", changes=True),
    _action("options.why", "w", "Why", "Why, in full height"),
    _action("options.what_if", "x", "What-if", "Try another goal"),
    _action("options.chart", "v", "Chart", "Interval bars or front"),
    _action("options.infeasible", "i", "Infeasible", "Show what is infeasible"),
    _action("options.compare", "c", "Compare", "Compare marked options"),
    _action("runs.pause", "p", "Pause", "Pause; resume asks first", changes=True),
    _action("runs.override", "o", "Override", "Change it as it runs", changes=True),
    _action("runs.checkpoint", "k", "Checkpoint", "Write a checkpoint now", changes=True),
    _action("runs.stop", "s", "Stop", "Stop; asks first", changes=True),
    _action("runs.extend", "plus", "Extend", "Raise deadline or cap", changes=True),
    _action("runs.detach", "d", "Detach", "Leave; the run goes on"),
    _action("runs.log", "l", "Log", "Log in full height"),
    _action("runs.decisions", "e", "Decisions", "Decisions of this run"),
    _action("runs.newer", "right_square_bracket", "", "The next newer run"),
    _action("runs.older", "left_square_bracket", "", "The next older run"),
    _action("decisions.older", "left", "Older", "Back in time"),
    _action("decisions.newer", "right", "Newer", "On in time"),
    _action("decisions.override", "o", "Override", "Change it as it runs", changes=True),
    _action("history.open", "enter", "Open", "Open the run"),
    _action("history.compare", "c", "Compare", "Compare marked runs"),
    _action("history.calibration", "g", "Calibration", "Did intervals hold?"),
    _action("list.mark", "space", "Mark", "Mark the row"),
    _action("list.down", "j", "", "Down"),
    _action("list.up", "k", "", "Up"),
    _action("list.sort", "s", "Sort", "Sort by another column"),
    _action("list.reverse", "S", "", "Reverse the order"),
    _action("list.filter", "slash", "Filter", "Filter"),
    _action("list.next", "n", "", "Next line with trouble"),
    _action("list.previous", "N", "", "The one before"),
    _action("app.copy", "y", "Copy JSON", "Copy as JSON"),
    _action("app.refresh", "r", "", "Read again"),
    *(
        _action(f"app.{tab}", str(number), "", f"Go to {tab.capitalize()}")
        for number, tab in enumerate(TABS, 1)
    ),
    _action("app.jump", "ctrl+o", "", "Jump to a pane"),
    _action("app.palette", "ctrl+p,colon", "Palette", "Palette: find anything"),
    _action("app.read_only", "ctrl+t", "", "Read-only on or off"),
    _action("app.help", "question_mark", "Help", "This help"),
    _action("app.back", "escape", "", "Back"),
    _action("app.quit", "q", "Quit", "Leave; runs go on"),
)

ACTIONS: dict[str, Action] = {action.name: action for action in _ALL}
"""Every action by its name, in the order of footer and help."""


def actions_of(scope: str) -> tuple[Action, ...]:
    """The actions of one scope."""
    return tuple(action for action in _ALL if action.scope == scope)


def bindings_of(scope: str, *names: str) -> list[BindingType]:
    """Textual bindings of a scope, or only of those verbs of it."""
    return [
        Binding(action.keys, f"app.do('{action.name}')", action.label, id=action.name, show=False)
        for action in actions_of(scope)
        if not names or action.verb in names
    ]


_KEY_NAMES = {
    "question_mark": "?",
    "colon": ":",
    "slash": "/",
    "plus": "+",
    "minus": "-",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "esc",
    "left": "←",
    "right": "→",
}


def show_key(key: str) -> str:
    """A key as a person reads it: `question_mark` is `?`."""
    head, plus, tail = key.rpartition("+")
    if plus and tail:
        return f"{head}+{_KEY_NAMES.get(tail, tail)}"
    return _KEY_NAMES.get(key, key)
