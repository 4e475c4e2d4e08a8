"""OnceEdit on Ray: the only folder that imports ray.

Each target LLM and the plug-in is an actor on GPUs of its own; a coordinator actor decodes with them.
"""
