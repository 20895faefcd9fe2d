"""Where the residual of a finished training lies."""
