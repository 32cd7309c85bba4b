"""The paper's figures and tables, from runs of this package."""
