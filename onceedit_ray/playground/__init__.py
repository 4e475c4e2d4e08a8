"""The playground: a web page in a process of its own, which uses only the public API.

The browser connects only to this process, and this process calls the API. It needs the extra `onceedit-ray[playground]`
(NiceGUI, the `openai` client and an HTTP client).
"""
