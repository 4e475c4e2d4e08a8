"""An OpenAI-compatible endpoint over a decoder: requests, limits, keys, answers as JSON and as server-sent events.

Knows no Ray: the same ingress runs over a decoder in this process and over a coordinator actor (`cluster/serve.py`).
"""
