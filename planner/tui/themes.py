"""Colours: three themes of our own, and what ours add to Textual's built-in ones.

Widgets and styles name meanings (`$soft`, `$good`, `$key`), never colours, so that every theme,
including a built-in one, gives them a value.
"""

from __future__ import annotations

from textual.color import Color
from textual.theme import Theme

DEFAULT_THEME = "planner-dark"


def variable_defaults(theme: Theme) -> dict[str, str]:
    """What the names mean in a theme that says nothing about them: mixed from its own colours."""
    colours = theme.to_color_system().generate()

    def colour(name: str) -> Color:
        return Color.parse(colours[name])

    def mixed(name: str, part: float) -> str:
        return colour("background").blend(colour(name), part).hex

    return {
        "soft": mixed("foreground", 0.62),
        "faint": mixed("foreground", 0.3),
        "good": colours["success"],
        "warn": colours["warning"],
        "bad": colours["error"],
        "key": colours["accent"],
        "pane-line": mixed("foreground", 0.25),
        "pane-focus": colours["primary"],
        "row-cursor": mixed("primary", 0.35),
        "chart": colours["primary"],
        "chart-low": mixed("primary", 0.5),
        "chart-mid": mixed("primary", 0.75),
        "chart-high": colours["primary"],
    }


THEMES: tuple[Theme, ...] = (
    Theme(
        name="planner-dark",
        primary="#6cb6ff",
        secondary="#9aa7bd",
        accent="#f0b45b",
        success="#7fd6a0",
        warning="#f0c674",
        error="#ff7b72",
        foreground="#d8dee9",
        background="#10141b",
        surface="#161b24",
        panel="#1e2531",
        dark=True,
        variables={
            "soft": "#8793a8",
            "faint": "#465063",
            "pane-line": "#323c4d",
            "row-cursor": "#24405f",
            "chart": "#6cb6ff",
            "chart-low": "#3f6d9c",
            "chart-mid": "#5596d6",
            "chart-high": "#8ccbff",
        },
    ),
    Theme(
        name="planner-light",
        primary="#0a60c2",
        secondary="#57606a",
        accent="#9a4a00",
        success="#19713a",
        warning="#8a5a00",
        error="#c4232b",
        foreground="#1d232e",
        background="#fafbfc",
        surface="#ffffff",
        panel="#e9edf3",
        dark=False,
        variables={
            "soft": "#5d6878",
            "faint": "#b4bcc8",
            "pane-line": "#c3cad5",
            "row-cursor": "#cfe3fb",
            "chart": "#0a60c2",
            "chart-low": "#7fb0e6",
            "chart-mid": "#3b86d3",
            "chart-high": "#0a4e9e",
        },
    ),
    Theme(
        name="planner-contrast",
        primary="#00e5ff",
        secondary="#ffffff",
        accent="#ffe600",
        success="#5cff5c",
        warning="#ffe600",
        error="#ff8080",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#262626",
        dark=True,
        variables={
            "soft": "#d0d0d0",
            "faint": "#8a8a8a",
            "pane-line": "#ffffff",
            "pane-focus": "#ffe600",
            "row-cursor": "#005f87",
            "chart": "#00e5ff",
            "chart-low": "#00b8d4",
            "chart-mid": "#00e5ff",
            "chart-high": "#ffffff",
        },
    ),
)
