"""Memory and time of recording, taping and replaying."""
