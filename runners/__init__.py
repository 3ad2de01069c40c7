"""Where jobs run: one protocol, one implementation per place."""
