"""All that knows a Trainer: the callback, what it checks and reports, loggers and checkpoint writers.

- ``callback``         `SparseTrainingCallback`: the hooks of a step; it tells a Sparsifier when
- ``beginning``        a fit begins, resumes from a checkpoint, or continues the fit before
- ``checks``           what is refused (FSDP, ...), and what a user is warned of
- ``optimizers``       the optimizer of the sparse weights, its hook, the number of its steps
- ``distributed``      masks compared between processes; ``precision``: GradScaler and fused steps
- ``computing``        truly sparse layers during a fit; ``finders``: learning rate and batch size
- ``flop_meter``, ``metrics``  what is counted and logged; ``averages``: averaged weights are masked, too
"""
