"""Which symmetries of a network its kernel inherits."""
