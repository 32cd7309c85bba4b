"""All that knows a Trainer: the callback, what it checks and reports, loggers and checkpoint writers."""
