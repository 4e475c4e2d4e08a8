"""OnceEdit on Ray: correct a fact once, and every large language model you run answers with it."""

__version__ = "0.1.0"
