"""The screens behind the six tabs, and the overlays."""
