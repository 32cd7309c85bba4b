"""One module a figure: ``draw(results)`` turns rows of ``paper/results`` into a picture and computes nothing else."""
