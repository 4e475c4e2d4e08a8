"""OnceEdit on Ray: the only folder that imports ray.

Each target LLM and the plug-in are actors pinned to their own GPUs; a coordinator actor decodes over them.
"""
