"""Widgets and drawing functions of the app."""
