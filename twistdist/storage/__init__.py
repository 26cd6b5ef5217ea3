"""Where result bytes live."""
