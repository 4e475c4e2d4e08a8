"""The playground: a page for people, served by a process of its own, which speaks the public API and nothing else.

The browser speaks to the page's process alone, and that process calls the API. It needs the extra
`onceedit-ray[playground]` (NiceGUI, the `openai` client and an HTTP client).
"""
