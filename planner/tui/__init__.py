"""The terminal app: a viewer of the store and a client of the services."""
